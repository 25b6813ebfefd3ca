//! A machine without disk or kernel: iPXE boots it from the network with a virtio driver of its own, which knows no
//! offload, no interrupt and no ring of any size but the device's.

use anyhow::Result;

use super::qemu::{program, shared_memory};
use super::{Accel, Nic};
use crate::assets::Qemu;
use crate::process::Process;

/// iPXE for virtio-net, of the package ipxe-qemu, on which Debian's QEMU depends.
const ROM: &str = "/usr/lib/ipxe/qemu/pxe-virtio.rom";
const MEMORY_MIB: u32 = 128;

/// Starts QEMU with a device that iPXE boots from; its console is the process's standard output. Properties that `nic`
/// has already are kept.
pub fn netboot(qemu: Qemu, nic: &Nic) -> Result<Process> {
    let mut command = program(qemu, None)?;
    // Always translated: the firmware runs in real mode, where half a KVM is no help.
    command.args(["-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-user-config", "-display", "none"]);
    // Without graphics the firmware's console is the serial port.
    command.args(["-machine", "pc,graphics=off", "-chardev", "stdio,id=console,signal=off"]);
    command.args(["-serial", "chardev:console", "-m", &format!("{MEMORY_MIB}M")]).args(shared_memory(MEMORY_MIB));
    // The ROM names the modern device only, and the firmware takes it at its word.
    let rom = format!("romfile={ROM},bootindex=1,disable-legacy=on");
    command.args(nic.clone().more_properties(&rom).args(0, qemu, Accel::Tcg));
    Process::spawn(command)
}
