//! Container images as OCI archives: one layer, made from files of this machine, without a container engine.
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use ring::digest::{SHA256, digest};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// What an image is made of.
pub(crate) struct Image<'a> {
    /// With registry and tag, as a pod names it.
    pub(crate) name: &'a str,
    /// Where each file is in the image, without the leading slash, and where it is taken from.
    pub(crate) programs: &'a [(&'a str, PathBuf)],
    pub(crate) entrypoint: &'a [&'a str],
}

/// A blob and how others refer to it.
struct Blob {
    digest: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(content: Vec<u8>) -> Self {
        let hash = digest(&SHA256, &content);
        let digest = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { digest, content }
    }

    fn descriptor(&self, media_type: &str) -> String {
        let Self { digest, content } = self;
        format!(r#""mediaType":"{media_type}","digest":"sha256:{digest}","size":{}"#, content.len())
    }
}

/// Writes the image as an archive that `ctr images import`, `docker load` and `podman load` understand.
pub(crate) fn write(image: &Image<'_>, archive: &Path) -> Result<()> {
    let layer = Blob::new(layer(image.programs)?);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let entrypoint: Vec<String> = image.entrypoint.iter().map(|word| format!("{word:?}")).collect();
    let config = Blob::new(
        format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{"Entrypoint":[{}],"Env":["{PATH}"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
            entrypoint.join(","),
            layer.digest,
        )
        .into_bytes(),
    );
    let manifest = Blob::new(
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{{{}}},"layers":[{{{}}}]}}"#,
            config.descriptor(CONFIG_TYPE),
            layer.descriptor(LAYER_TYPE),
        )
        .into_bytes(),
    );
    let tag = image.name.rsplit(':').next().unwrap_or_default();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{{},"annotations":{{"io.containerd.image.name":"{}","org.opencontainers.image.ref.name":"{tag}"}}}}]}}"#,
        manifest.descriptor(MANIFEST_TYPE),
        image.name,
    );
    let partial = archive.with_extension("partial");
    let file = File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
    let mut tar = tar::Builder::new(BufWriter::new(file));
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    append(&mut tar, "index.json", index.as_bytes(), 0o644)?;
    for blob in [layer, config, manifest] {
        append(&mut tar, &format!("blobs/sha256/{}", blob.digest), &blob.content, 0o644)?;
    }
    let written = tar.into_inner().and_then(|mut file| file.flush());
    written.and_then(|()| fs::rename(&partial, archive))
        .with_context(|| format!("cannot write {}", archive.display()))
}

/// The files of the image. Equal files give an equal layer: it holds no time and no owner.
fn layer(programs: &[(&str, PathBuf)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, source) in programs {
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        append(&mut tar, path, &content, 0o755)?;
    }
    tar.into_inner().context("cannot finish a layer")
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len().try_into().context("a file of this size")?);
    header.set_mode(mode);
    tar.append_data(&mut header, path, content).with_context(|| format!("cannot add {path} to an archive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha256() {
        let blob = Blob::new(b"abc".to_vec());
        assert_eq!(blob.digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(blob.descriptor("x").ends_with(r#""size":3"#), "{}", blob.descriptor("x"));
    }

    #[test]
    fn equal_files_make_an_equal_layer() {
        let own = [("program", PathBuf::from(file!()).file_name().map(PathBuf::from).unwrap_or_default())];
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&own[0].1);
        let programs = [("bin/program", here)];
        let layers = [layer(&programs), layer(&programs)].map(|layer| layer.expect("a layer"));
        assert_eq!(layers[0], layers[1]);
        assert!(layers[0].starts_with(b"bin/program"));
    }
}
