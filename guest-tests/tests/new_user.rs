//! What somebody does who has just read the documents: install the package, start the service, launch a guest by the line
//! in the README, look at its traffic; then hand the same NIC to libvirt.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::container::Container;
use guest_tests::lab::{self, GUEST, HOST, beside, eventually};
use guest_tests::package::package;
use guest_tests::{Guest, Kernel, NetNs, Side, System, transfer};

const BYTES: u64 = 4_000_001;
const END: Duration = Duration::from_secs(20);
const README: &str = include_str!("../../README.md");
const DOMAIN: &str = include_str!("../../configs/libvirt-domain.xml");
/// The socket of the README's configuration file.
const SOCKET: &str = "/run/vnicd/vm1.sock";
/// Where guests' agents and monitors listen, in the container.
const SOCKETS: &str = "/run/guest";

/// Replaces what must be there.
fn replace(text: &str, what: &str, by: &str) -> Result<String> {
    ensure!(text.contains(what), "no \"{what}\" any more in\n{text}");
    Ok(text.replace(what, by))
}

/// The configuration file that the README shows.
fn configuration() -> Result<&'static str> {
    let (_, begun) = README.split_once("```toml\n").context("the README shows no configuration file")?;
    Ok(begun.split_once("```").context("it has no end")?.0)
}

/// The line that the README launches QEMU by, for a guest of the tests and a machine without KVM.
fn launch_line(system: &System) -> Result<String> {
    let (_, begun) = README.split_once("host# qemu-system-x86_64 -machine").context("the README launches no QEMU")?;
    let (rest, _) = begun.split_once("\n\n").context("it has no end")?;
    let line = format!("qemu-system-x86_64 -machine{rest}");
    let line = replace(&line, "accel=kvm", "accel=tcg")?;
    let line = replace(&line, "-cpu host", "-cpu max")?;
    let line = replace(&line, "/run/vm1.sock", SOCKET)?;
    // QEMU 7.2 without KVM, of which the README speaks, too.
    let line = replace(&line, "virtio-net-pci,", "virtio-net-pci,vectors=0,")?;
    let args = system.args(Path::new(SOCKETS), "");
    let quoted: String = args.iter().map(|arg| format!("'{arg}' ")).collect();
    replace(&line, "disk.img", &quoted)
}

/// The domain of `configs/`, for a guest of the tests and a machine without KVM.
fn domain(system: &System) -> Result<String> {
    const QEMU: &str = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'";
    const VECTORS: &str = "<qemu:override><qemu:device alias='net0'><qemu:frontend>\
                           <qemu:property name='vectors' type='unsigned' value='0'/>\
                           </qemu:frontend></qemu:device></qemu:override>";
    let serial = |port: u32, kind: &str, path: &str| {
        format!("<serial type='{kind}'><source mode='bind' path='{path}'/><target port='{port}'/></serial>")
    };
    let ports = serial(0, "file", "/var/log/libvirt/qemu/console").replace("mode='bind' ", "")
        + &serial(1, "unix", &format!("{SOCKETS}/agent"));
    let boot = format!(
        "<kernel>{}</kernel><initrd>{}</initrd><cmdline>{}</cmdline></os>",
        system.vmlinuz.display(),
        system.initramfs.display(),
        System::CMDLINE
    );
    let xml = replace(DOMAIN, "<domain type='kvm'>", &format!("<domain type='qemu' {QEMU}>"))?;
    let xml = replace(&xml, "<memory unit='MiB'>1024<", "<memory unit='MiB'>256<")?;
    let xml = replace(&xml, "</os>", &boot)?;
    let (before, disk) = xml.split_once("<disk").context("no disk")?;
    let xml = before.to_owned() + disk.split_once("</disk>").context("no disk")?.1;
    let xml = replace(&xml, "<serial type='pty'/>", &ports)?;
    let xml = replace(&xml, "<console type='pty'/>", "")?;
    replace(&xml, "</domain>", &format!("{VECTORS}</domain>"))
}

fn pings_and_transfers(host: &NetNs, guest: &Guest) -> Result<()> {
    lab::address_guest(guest)?;
    guest.run_ok(&format!("ping -c 2 -i 0.2 -W 5 {HOST}"))?;
    transfer::tcp(Side::Guest(guest), Side::Host(host), HOST, BYTES)?;
    transfer::tcp(Side::Host(host), Side::Guest(guest), GUEST, BYTES).map(drop)
}

/// While traffic moves, `vnicctl top` shows packets both ways.
fn top_shows_traffic(machine: &Container, host: &NetNs, guest: &Guest) -> Result<()> {
    let traffic = |stop: &AtomicBool| -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            transfer::tcp(Side::Guest(guest), Side::Host(host), HOST, BYTES)?;
        }
        Ok(())
    };
    beside(traffic, || {
        eventually("top shows the traffic", || {
            let shown = machine.ok("vnicctl top --once --interval=1")?;
            let lane = shown.lines().find(|line| line.starts_with("vm1/0")).unwrap_or_default();
            let cells: Vec<&str> = lane.split_whitespace().collect();
            // Packets a second, sent and received, from the right: they are all single words.
            Ok([10, 8].iter().all(|n| cells.len() > *n && !["0", "-"].contains(&cells[cells.len() - n])))
        })
    })
}

#[test]
fn from_the_package_to_a_guest_that_libvirt_runs() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let deb = package(dir.path(), "deb", env!("CARGO_PKG_VERSION"))?;
    let machine = Container::with_virtual_machines()?;
    let outside = System::of(Kernel::Stock)?;
    let inside = System { vmlinuz: "/boot/vmlinuz".into(), initramfs: "/boot/initramfs".into() };
    for (file, path) in [
        (&deb, Path::new("/root/vnicd.deb")),
        (&outside.vmlinuz, &inside.vmlinuz),
        (&outside.initramfs, &inside.initramfs),
    ] {
        machine.put(file, &path.to_string_lossy())?;
    }
    machine.ok(&format!("chmod 644 /boot/*; mkdir {SOCKETS}; apt-get install -y /root/vnicd.deb"))?;
    let host = machine.network()?;
    host.sh("ip link add br0 type bridge")?;
    lab::address_host(&host, "br0")?;
    std::fs::write(machine.path("/etc/vnicd/vnicd.toml"), configuration()?)?;
    machine.ok("systemctl enable --now vnicd")?;
    let sockets: PathBuf = machine.path(SOCKETS);

    let guest = Guest::builder().attach(machine.spawn(&launch_line(&inside)?)?, &sockets)?;
    pings_and_transfers(&host, &guest)?;
    top_shows_traffic(&machine, &host, &guest)?;
    guest.quit()?;
    let status = "systemctl show --value -p StatusText vnicd";
    eventually("the guest is gone", || Ok(machine.ok(status)?.trim() == "1 device, 0 front ends connected"))?;

    // Namespaces and control groups of its own are what libvirt cannot make in this container.
    machine.ok("printf 'cgroup_controllers = []\\nnamespaces = []\\n' >>/etc/libvirt/qemu.conf; \
                systemctl restart libvirtd")?;
    for (name, xml) in [("as-it-stands", DOMAIN), ("vm1", &domain(&inside)?)] {
        std::fs::write(machine.path(&format!("/root/{name}.xml")), xml)?;
        machine.ok(&format!("virt-xml-validate /root/{name}.xml"))?;
    }
    // Ends when the domain does, and sooner when it cannot be started.
    let domain = "virsh create --validate /root/vm1.xml && virsh event --domain vm1 --event lifecycle --timeout 250";
    let guest = Guest::builder().attach(machine.spawn(domain)?, &sockets)?;
    let pid = machine.ok("cat /run/libvirt/qemu/vm1.pid")?;
    let user = machine.ok(&format!("stat -c %U /proc/{}", pid.trim()))?;
    ensure!(user.trim() == "libvirt-qemu", "QEMU runs as {user}");
    pings_and_transfers(&host, &guest)?;
    machine.ok("virsh destroy vm1")?;
    guest.qemu().wait(END)?;
    Ok(())
}
