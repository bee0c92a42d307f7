//! An OCI image of one layer, as an archive that `ctr images import`, `kind load image-archive` and `podman load` read.
//! The same name and files give the same bytes: nothing of the machine, the user or the time goes in.
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use ring::digest;
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What an image holds and runs.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// With its registry and its tag: `localhost/millrace/millrace:0.1.0`.
    name: String,
    entrypoint: Vec<String>,
    labels: BTreeMap<String, String>,
    files: BTreeMap<String, File>,
}

#[derive(Clone, Debug)]
struct File {
    mode: u32,
    content: Vec<u8>,
}

/// A blob of the archive, as others refer to it.
struct Blob {
    digest: String,
    content: Vec<u8>,
}

impl Image {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            entrypoint: Vec::new(),
            labels: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    /// What a container runs that names no command.
    pub(crate) fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    pub(crate) fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds a file of root, at a path from the image's root. The folders above it come by themselves.
    pub(crate) fn file(mut self, path: &str, mode: u32, content: Vec<u8>) -> Self {
        self.files.insert(path.trim_start_matches('/').to_owned(), File { mode, content });
        self
    }

    /// The archive's bytes, and the digest of the image's manifest.
    pub(crate) fn archive(&self) -> Result<(Vec<u8>, String)> {
        let uncompressed = self.layer().context("cannot make the layer")?;
        let diff_id = sha256(&uncompressed);
        let layer = Blob::of(compressed(&uncompressed).context("cannot compress the layer")?);
        let config = Blob::of(json_bytes(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": self.entrypoint, "Labels": self.labels },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        })));
        let manifest = Blob::of(json_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": [layer.descriptor(LAYER)],
        })));
        let mut described = manifest.descriptor(MANIFEST);
        let tag = self.name.rsplit(':').next().unwrap_or_default();
        described["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        let index = json_bytes(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [described] }));

        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut tar, "index.json", 0o644, &index)?;
        for blob in [&manifest, &config, &layer] {
            let path = format!("blobs/{}", blob.digest.replace(':', "/"));
            append(&mut tar, &path, 0o644, &blob.content)?;
        }
        Ok((tar.into_inner().context("cannot end the archive")?, manifest.digest))
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let above = |path| Path::new(path).ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        let folders: BTreeSet<&Path> = self.files.keys().flat_map(above).collect();
        for folder in folders {
            let mut header = header(0o755, 0);
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, folder, std::io::empty())?;
        }
        for (path, file) in &self.files {
            append(&mut tar, path, file.mode, &file.content)?;
        }
        Ok(tar.into_inner()?)
    }
}

impl Blob {
    fn of(content: Vec<u8>) -> Self {
        Self { digest: sha256(&content), content }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.content.len() })
    }
}

/// Of root, and of no time: the archive must not tell when and by whom it was made.
fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = header(mode, content.len() as u64);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, path, content).with_context(|| format!("cannot pack {path}"))
}

/// Without a file name and a time in its header.
fn compressed(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::default());
    encoder.write_all(content)?;
    encoder.finish()
}

fn json_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// As OCI writes a digest.
pub(crate) fn sha256(content: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, content);
    let nibbles = digest.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    let hex: String = nibbles.filter_map(|nibble| char::from_digit(nibble.into(), 16)).collect();
    format!("sha256:{hex}")
}

/// This machine's, in the words of OCI.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn image() -> Image {
        Image::new("localhost/a/b:1")
            .entrypoint(&["/usr/bin/b"])
            .label("k", "v")
            .file("/usr/bin/b", 0o755, b"program".to_vec())
            .file("/etc/b.conf", 0o644, b"x".to_vec())
    }

    /// Path, mode, time and content of each entry.
    fn entries(archive: &[u8]) -> Vec<(String, u32, u64, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: std::io::Result<tar::Entry<&[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            let path = entry.path().unwrap().display().to_string();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0), "{path}");
            (path, header.mode().unwrap(), header.mtime().unwrap(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn the_same_files_give_the_same_bytes_in_whatever_order_they_come() {
        let (first, _) = image().archive().unwrap();
        let other = Image::new("localhost/a/b:1")
            .file("etc/b.conf", 0o644, b"x".to_vec())
            .file("usr/bin/b", 0o755, b"program".to_vec())
            .label("k", "v")
            .entrypoint(&["/usr/bin/b"]);
        assert_eq!(first, other.archive().unwrap().0);
        let changed = image().file("/etc/b.conf", 0o644, b"y".to_vec());
        assert_ne!(first, changed.archive().unwrap().0);
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_referred_to() {
        let (archive, digest) = image().archive().unwrap();
        let entries = entries(&archive);
        let content = |path: &str| &entries.iter().find(|(name, ..)| name == path).expect(path).3;
        let parsed = |path: &str| serde_json::from_slice::<Value>(content(path)).unwrap();
        let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));

        let index = parsed("index.json");
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/a/b:1");
        assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1");
        assert_eq!(index["manifests"][0]["digest"], digest);
        let manifest = parsed(&blob(&index["manifests"][0]["digest"]));
        let config = parsed(&blob(&manifest["config"]["digest"]));
        let layer = content(&blob(&manifest["layers"][0]["digest"]));
        for (path, ..) in entries.iter().filter(|(path, ..)| path.starts_with("blobs/")) {
            assert_eq!(*path, blob(&sha256(content(path)).into()));
        }

        let mut uncompressed = Vec::new();
        flate2::read::GzDecoder::new(&layer[..]).read_to_end(&mut uncompressed).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], sha256(&uncompressed));
        let layout = self::entries(&uncompressed);
        let layout: Vec<_> =
            layout.iter().map(|(path, mode, time, _)| (path.as_str(), *mode, *time)).collect();
        let expected = [
            ("etc", 0o755, 0),
            ("usr", 0o755, 0),
            ("usr/bin", 0o755, 0),
            ("etc/b.conf", 0o644, 0),
            ("usr/bin/b", 0o755, 0),
        ];
        assert_eq!(layout, expected);
    }
}
