//! bpf(2): maps, programs and links, each a safe function.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Commands.
const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const MAP_GET_FD_BY_ID: libc::c_int = 14;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_GET_FD_BY_ID: libc::c_int = 30;
const LINK_GET_NEXT_ID: libc::c_int = 31;

const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// The program takes frames that lie in several buffers (Linux 5.18).
const HAS_FRAGS: u32 = 1 << 5;

/// Kinds of maps.
pub(super) const ARRAY: u32 = 2;
pub(super) const SOCKETS: u32 = 17;

/// Bytes of an object's name, the last of them zero.
const NAME_LEN: usize = 16;
/// Most maps that a program of ours has.
const MAX_MAPS: usize = 4;

/// A name as the kernel takes it.
fn name_of(name: &str) -> [u8; NAME_LEN] {
    let mut bytes = [0; NAME_LEN];
    for (to, from) in bytes[..NAME_LEN - 1].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; NAME_LEN],
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_LEN],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct Id {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    len: u32,
    info: u64,
}

/// The start of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    translated_len: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; NAME_LEN],
}

/// The start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; NAME_LEN],
}

/// The start of `struct bpf_link_info`.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
}

/// What a program is called and which maps it has.
pub(super) struct Program {
    pub(super) name: String,
    pub(super) maps: Vec<u32>,
}

/// A map of `max_entries` entries with keys of four bytes.
pub(super) fn create_map(kind: u32, value_size: u32, max_entries: u32, name: &str) -> io::Result<OwnedFd> {
    let name = name_of(name);
    let attr = MapCreate { kind, key_size: 4, value_size, max_entries, flags: 0, inner_map: 0, numa_node: 0, name };
    // SAFETY: the command reads the fields of the attribute, none of which is a pointer.
    unsafe { open(MAP_CREATE, &attr) }
}

/// Loads an XDP program; one that takes frames in several buffers, if the kernel knows such.
pub(super) fn load_program(instructions: &[u64], name: &str) -> io::Result<OwnedFd> {
    let load = |flags| {
        let attr = ProgLoad {
            kind: PROG_TYPE_XDP,
            instruction_count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"BSD".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags,
            name: name_of(name),
            interface: 0,
            attach_type: ATTACH_XDP,
        };
        // SAFETY: the command reads the attribute, as many instructions as it says, and the licence up to its zero.
        unsafe { open(PROG_LOAD, &attr) }
    };
    match load(HAS_FRAGS) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => load(0),
        other => other,
    }
}

/// Puts a program at an interface, where it stays as long as anybody has the link. `flags` are `XDP_FLAGS_*`.
pub(super) fn attach(program: impl AsFd, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let program = program.as_fd().as_raw_fd() as u32;
    // SAFETY: the command reads the fields of the attribute, none of which is a pointer.
    unsafe { open(LINK_CREATE, &LinkCreate { program, interface, attach_type: ATTACH_XDP, flags }) }
}

/// Name and maps of the program with this id.
pub(super) fn program_by_id(id: u32) -> io::Result<Program> {
    // SAFETY: the command reads the fields of the attribute, none of which is a pointer.
    let program = unsafe { open(PROG_GET_FD_BY_ID, &Id { id, next: 0, flags: 0 }) }?;
    let mut maps = [0u32; MAX_MAPS];
    let mut info = ProgInfo { map_count: MAX_MAPS as u32, map_ids: maps.as_mut_ptr() as u64, ..ProgInfo::default() };
    // SAFETY: of what the kernel may fill through pointers in this structure only the list of maps is asked for, which
    // has room for as many as are.
    unsafe { info_of(&program, &mut info) }?;
    let count = (info.map_count as usize).min(MAX_MAPS);
    Ok(Program { name: text(&info.name), maps: maps[..count].to_vec() })
}

/// The map with this id, and its name.
pub(super) fn map_by_id(id: u32) -> io::Result<(OwnedFd, String)> {
    // SAFETY: the command reads the fields of the attribute, none of which is a pointer.
    let map = unsafe { open(MAP_GET_FD_BY_ID, &Id { id, next: 0, flags: 0 }) }?;
    let mut info = MapInfo::default();
    // SAFETY: the structure has no pointers.
    unsafe { info_of(&map, &mut info) }?;
    let name = text(&info.name);
    Ok((map, name))
}

/// The link that keeps the program with this id where it is.
pub(super) fn link_of_program(program: u32) -> io::Result<Option<OwnedFd>> {
    let mut next = Id { id: 0, next: 0, flags: 0 };
    loop {
        // SAFETY: the command reads and writes the fields of the attribute, none of which is a pointer.
        match unsafe { call(LINK_GET_NEXT_ID, &raw mut next) } {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            other => other.map(drop)?,
        }
        next.id = next.next;
        // SAFETY: the command reads the fields of the attribute, none of which is a pointer. It fails if the link has
        // just gone.
        let Ok(link) = (unsafe { open(LINK_GET_FD_BY_ID, &Id { id: next.id, next: 0, flags: 0 }) }) else { continue };
        let mut info = LinkInfo::default();
        // SAFETY: the part of the structure that is asked for has no pointers.
        if unsafe { info_of(&link, &mut info) }.is_ok() && info.program == program {
            return Ok(Some(link));
        }
    }
}

/// Asks about an object.
///
/// # Safety
/// `T` is the start of the kernel's structure for the kind of object, and pointers in it are valid as the kernel uses them.
unsafe fn info_of<T>(object: &OwnedFd, info: &mut T) -> io::Result<()> {
    let len = size_of::<T>() as u32;
    let mut attr = InfoByFd { fd: object.as_raw_fd() as u32, len, info: (&raw mut *info) as u64 };
    // SAFETY: the kernel fills as many bytes of the structure as there are; the caller vouches for the rest.
    unsafe { call(OBJ_GET_INFO_BY_FD, &raw mut attr) }.map(drop)
}

/// A command that opens an object.
///
/// # Safety
/// As for [`call`], and the answer is a new file descriptor.
unsafe fn open<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for the attribute, which such a command only reads.
    let fd = unsafe { call(command, (&raw const *attr).cast_mut()) }?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `T` is the start of `union bpf_attr` as the command takes it, and its pointers are valid as the command uses them.
unsafe fn call<T>(command: libc::c_int, attr: *mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller vouches for the attribute; the kernel is told how long it is.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as libc::c_int) }
}

fn text(name: &[u8; NAME_LEN]) -> String {
    String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}
