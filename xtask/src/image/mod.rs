//! The container image: static programs in one layer, packed without a container engine.
pub(crate) mod archive;
mod elf;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use self::archive::Image;
use crate::{build, build_ebpf, command, workspace};

/// The image's name without its tag. `localhost` is no registry: the image comes by import, not by download.
const REPOSITORY: &str = "localhost/millrace/millrace";

/// The most that the archive may have, in bytes: nodes copy it.
const LARGEST: usize = 20 << 20;

/// Where the programs are in the image.
const FOLDER: &str = "usr/bin";

/// How to make the image.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Where to write the archive [default: target/image/millrace-VERSION.tar]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Build everything a second time, in another folder, and fail unless the archives are the same byte for byte
    #[arg(long)]
    check: bool,
}

/// Builds the image's programs and packs them.
pub(crate) fn image(options: &Options) -> Result<()> {
    build_ebpf::build()?;
    let (archive, digest) = build(&workspace::target().join("image-build"))?;
    let out = options.out.clone().unwrap_or_else(default_archive);
    write(&out, &archive)?;
    println!("{} ({} KiB)\n{} {digest}", out.display(), archive.len() >> 10, name());
    if options.check {
        check(&archive)?;
        println!("a second build has the same bytes");
    }
    Ok(())
}

/// The name by which pods ask for the image.
pub(crate) fn name() -> String {
    format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"))
}

/// Where the archive is written when nothing else is said.
pub(crate) fn default_archive() -> PathBuf {
    workspace::target().join(format!("image/millrace-{}.tar", env!("CARGO_PKG_VERSION")))
}

fn build(folder: &Path) -> Result<(Vec<u8>, String)> {
    let programs = build::for_image(folder)?;
    let mut image = Image::new(&name())
        .entrypoint(&["/usr/bin/millrace-agent"])
        .label("org.opencontainers.image.title", "millrace")
        .label("org.opencontainers.image.version", env!("CARGO_PKG_VERSION"))
        .label("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE"));
    for program in programs {
        let content = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
        elf::require_static(&content).with_context(|| format!("{} cannot go in", program.display()))?;
        let file = program.file_name().unwrap_or_default().to_string_lossy();
        eprintln!("    {file} {} KiB", content.len() >> 10);
        image = image.file(&format!("{FOLDER}/{file}"), 0o755, content);
    }
    let (archive, digest) = image.archive()?;
    if archive.len() > LARGEST {
        bail!("the image has {} bytes, {LARGEST} are the most: what made it grow?", archive.len());
    }
    Ok((archive, digest))
}

/// Writes an archive as a whole.
pub(crate) fn write(path: &Path, archive: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let partial = path.with_extension("partial");
    let written = fs::write(&partial, archive).and_then(|()| fs::rename(&partial, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// A build that shares nothing with the first, in a folder of another name.
fn check(first: &[u8]) -> Result<()> {
    command::announce("the image once more, from nothing");
    let folder = workspace::target().join("image-check");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let (second, _) = build(&folder)?;
    if first != second {
        bail!(
            "two builds of the same sources differ ({} and {}): compare the programs in target/image-build and {}",
            archive::sha256(first),
            archive::sha256(&second),
            folder.display()
        );
    }
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}
