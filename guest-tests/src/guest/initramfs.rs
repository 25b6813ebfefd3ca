//! Builds the guest's file system: an uncompressed cpio archive of busybox, iperf3, ethtool, the agent, the libraries
//! they need and the kernel modules of a virtio network device. It is kept and built anew when an input has changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::assets::{self, Kernel};

/// What the agent loads at boot; what they depend on is found in the modules themselves.
const MODULES: &[&str] = &["virtio_pci", "virtio_net", "af_packet", "8021q"];

/// Programs with their libraries.
const PROGRAMS: &[&str] = &["iperf3", "ethtool"];

/// The initramfs for a kernel, built if need be. Concurrent callers wait for each other.
pub(crate) fn build(kernel: Kernel) -> Result<PathBuf> {
    let cache = assets::cache()?;
    let lock = File::create(cache.join("initramfs.lock"))?;
    lock.lock()?;

    let inputs = Inputs::find(kernel)?;
    let archive = cache.join(format!("initramfs-{}.cpio", kernel.name()));
    let stamp = archive.with_extension("inputs");
    let wanted = inputs.stamp()?;
    if archive.is_file() && fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(archive);
    }
    let _ = fs::remove_file(&stamp);
    let tree = tempfile::Builder::new().prefix("initramfs-").tempdir()?;
    inputs.fill(tree.path())?;
    // A guest that boots now keeps reading the old archive.
    let new = archive.with_extension("new");
    pack(tree.path(), &new)?;
    fs::rename(&new, &archive)?;
    fs::write(&stamp, wanted)?;
    Ok(archive)
}

struct Inputs {
    agent: PathBuf,
    busybox: PathBuf,
    /// With their libraries, at the paths that they have on this machine.
    programs: BTreeSet<PathBuf>,
    /// In the order in which they can be loaded.
    modules: Vec<PathBuf>,
}

impl Inputs {
    fn find(kernel: Kernel) -> Result<Self> {
        let agent = assets::agent()?;
        let mut programs = BTreeSet::new();
        libraries(&agent, &mut programs)?;
        for name in PROGRAMS {
            let program = in_path(name)?;
            libraries(&program, &mut programs)?;
            programs.insert(program);
        }
        Ok(Self { agent, busybox: in_path("busybox")?, programs, modules: modules(&kernel.dir()?)? })
    }

    fn stamp(&self) -> Result<String> {
        let mut stamp = String::from("1\n");
        let files = [&self.agent, &self.busybox].into_iter().chain(&self.programs).chain(&self.modules);
        for path in files {
            let meta = fs::metadata(path).with_context(|| format!("no {}", path.display()))?;
            writeln!(stamp, "{} {} {:?}", path.display(), meta.len(), meta.modified()?)?;
        }
        Ok(stamp)
    }

    fn fill(&self, tree: &Path) -> Result<()> {
        for dir in ["bin", "sbin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp", "usr"] {
            fs::create_dir(tree.join(dir))?;
        }
        symlink("../bin", tree.join("usr/bin"))?;
        symlink("../sbin", tree.join("usr/sbin"))?;
        strip_to(&self.agent, &tree.join("init"))?;
        symlink("../init", tree.join("bin/tool"))?;
        fs::copy(&self.busybox, tree.join("bin/busybox"))?;
        for applet in output(Command::new(&self.busybox).arg("--list"))?.lines().filter(|name| *name != "busybox") {
            symlink("busybox", tree.join("bin").join(applet))?;
        }
        for path in &self.programs {
            let target = tree.join(path.strip_prefix("/")?);
            fs::create_dir_all(target.parent().context("a program in /")?)?;
            fs::copy(path, target)?;
        }
        let mut order = String::new();
        for path in &self.modules {
            let name = module_name(path).context("not a module")?;
            unpack_module(path, &tree.join(format!("modules/{name}.ko")))?;
            writeln!(order, "{name}.ko")?;
        }
        fs::write(tree.join("modules/order"), order)?;
        Ok(())
    }
}

fn in_path(name: &str) -> Result<PathBuf> {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not installed: run `scripts/setup test` first"))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The shared libraries of a program and its dynamic loader.
fn libraries(program: &Path, into: &mut BTreeSet<PathBuf>) -> Result<()> {
    for line in output(Command::new("ldd").arg(program))?.lines() {
        if line.contains("not found") {
            bail!("{} lacks a library: {}", program.display(), line.trim());
        }
        into.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Ok(())
}

/// [`MODULES`] and what they depend on, dependencies first.
fn modules(kernel: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    collect_modules(&kernel.join("lib/modules"), &mut all)?;
    let mut ordered = Vec::new();
    for name in MODULES {
        add_module(name, &all, &mut ordered)?;
    }
    Ok(ordered)
}

fn collect_modules(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("no {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_modules(&entry.path(), into)?;
        } else if module_name(&entry.path()).is_some() {
            into.push(entry.path());
        }
    }
    Ok(())
}

fn add_module(name: &str, all: &[PathBuf], ordered: &mut Vec<PathBuf>) -> Result<()> {
    // What is not there is built into the kernel.
    let Some(path) = all.iter().find(|path| module_name(path).as_deref() == Some(name)) else {
        return Ok(());
    };
    if ordered.contains(path) {
        return Ok(());
    }
    for needed in depends(&read_module(path)?) {
        add_module(&needed, all, ordered)?;
    }
    ordered.push(path.clone());
    Ok(())
}

/// The name as the kernel has it: `-` is `_`, the endings are off.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".xz").or(name.strip_suffix(".zst")).unwrap_or(name);
    Some(name.strip_suffix(".ko")?.replace('-', "_"))
}

/// The names in a module's `depends=` line of modinfo.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let unpacker = match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return Ok(fs::read(path)?),
    };
    let output =
        Command::new(unpacker).arg("-dc").arg(path).output().with_context(|| format!("cannot run {unpacker}"))?;
    if !output.status.success() {
        bail!("cannot unpack {}", path.display());
    }
    Ok(output.stdout)
}

fn unpack_module(path: &Path, target: &Path) -> Result<()> {
    Ok(fs::write(target, read_module(path)?)?)
}

/// Copies a program without its debug information, which would be most of the archive.
fn strip_to(program: &Path, target: &Path) -> Result<()> {
    let stripped = Command::new("strip").arg("-o").arg(target).arg(program).stderr(Stdio::null()).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(program, target)?;
    }
    Ok(())
}

fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0"]).current_dir(tree);
    let status = shell.stdin(Stdio::null()).stdout(File::create(archive)?).status()?;
    if !status.success() {
        bail!("cpio failed ({status})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_and_dependencies_are_read() {
        assert_eq!(module_name(Path::new("/x/virtio-rng.ko.xz")).as_deref(), Some("virtio_rng"));
        assert_eq!(module_name(Path::new("/x/modules.builtin")), None);
        assert_eq!(
            depends(b"license=GPL\0depends=virtio_ring,net-failover\0name=x\0"),
            ["virtio_ring", "net_failover"]
        );
        assert!(depends(b"license=GPL\0depends=\0name=x\0").is_empty());
    }
}
