//! Random front ends and rings: the daemon neither dies, panics nor spins.
//!
//! `FUZZ_SECONDS` (8) says how long, `FUZZ_SEED` from where; a failure names its case.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, IN_ORDER, INDIRECT_DESC, MRG_RXBUF, PACKED, VERSION_1};
use guest_tests::driver::{Client, Desc, GUEST_BASE, USER_BASE};
use guest_tests::{NetNs, Vnicd};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vm_memory::{Bytes, GuestAddress};

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn odd_fd(rng: &mut Rng) -> Result<OwnedFd> {
    Ok(match rng.below(7) {
        0 => rustix::pipe::pipe()?.0,
        1 => rustix::pipe::pipe()?.1,
        2 => tempfile::tempfile()?.into(),
        3 => rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)?,
        4 => std::os::unix::net::UnixStream::pair()?.0.into(),
        5 => std::fs::File::open("/dev/zero")?.into(),
        _ => rustix::event::eventfd(rng.below(3) as u32, rustix::event::EventfdFlags::NONBLOCK)?,
    })
}

/// Where a packed ring stands: both halves the same, and once in a while not.
fn base(rng: &mut Rng, size: u16) -> u32 {
    let half = |rng: &mut Rng| rng.below(size.into()) as u32 | (rng.below(2) as u32) << 15;
    let one = half(rng);
    one << 16 | if rng.below(8) == 0 { half(rng) } else { one }
}

#[test]
fn random_front_ends_and_rings_do_no_harm() -> Result<()> {
    let seconds: u64 = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let seed: u64 = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x1234_5678_9abc_def1);
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).arg("--queue-pairs=2").start()?;
    ns.sh("ip addr replace 10.77.0.1/24 dev tap0; ip link set tap0 up mtu 9000; ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:77 dev tap0")?;
    let socket = ns.run_in(|| std::net::UdpSocket::bind("10.77.0.1:0"))??;
    let mut rng = Rng(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut cases = 0;
    while Instant::now() < end {
        cases += 1;
        let Ok(mut client) = Client::connect(vnicd.socket()) else { break };
        let wanted = [
            MRG_RXBUF,
            VERSION_1,
            EVENT_IDX,
            INDIRECT_DESC,
            PACKED,
            IN_ORDER,
            1 << 7 | 1 << 1 | 1 << 11,
            1,
            1 | 1 << 11,
        ];
        let features = wanted.iter().fold(0, |f, w| if rng.below(2) == 0 { f | w } else { f });
        if client.negotiate(features).is_err() || client.share_memory().is_err() {
            continue;
        }
        let packed = features & PACKED != 0;
        let size = match rng.below(16) {
            0 | 1 => 1 << rng.below(16),
            _ if packed => 1 + rng.below(300) as u16,
            _ => 2 << rng.below(8),
        };
        let mut queues = Vec::new();
        for index in 0..4 {
            let Ok(mut queue) = client.queue(index, size) else { break };
            // Random base state.
            if rng.below(3) == 0 {
                queue.start_at(if packed { base(&mut rng, size) } else { u32::from(rng.next() as u16) });
            }
            queues.push(queue);
            let queue = queues.last_mut().context("none")?;
            if client.start_queue(queue).is_err() || client.front.set_vring_enable(index, rng.below(8) != 0).is_err() {
                break;
            }
        }
        if queues.len() < 4 {
            continue;
        }
        let region = client.region();
        for _ in 0..rng.below(40) {
            let at = rng.below(4) as usize;
            match rng.below(12) {
                0..=5 => {
                    let queue = &mut queues[at];
                    let write = if at.is_multiple_of(2) { 2 } else { 0 };
                    let most = if rng.below(4) == 0 { u64::from(size) } else { 4 };
                    let chain = 1 + rng.below(most) as u16;
                    let start = rng.below(size.into()) as u16;
                    for i in 0..chain {
                        let index = (start + i) % size;
                        let mut flags = write | if i + 1 < chain { 1 } else { 0 };
                        if rng.below(200) == 0 {
                            flags = rng.below(8) as u16;
                        }
                        let len = match rng.below(6) {
                            0 => 0,
                            1 => rng.below(16) as u32,
                            2 => rng.below(70_000) as u32,
                            3 if rng.below(20) == 0 => u32::MAX,
                            _ => rng.below(2000) as u32 + 12,
                        };
                        let most = if rng.below(50) == 0 { 17 << 20 } else { 15 << 20 };
                        let address = GUEST_BASE + rng.below(most);
                        let desc = Desc { address, len, flags, next: (start + i + 1) % size };
                        if packed && rng.below(20) != 0 {
                            queue.packed().offer(desc);
                        } else {
                            queue.write_desc(index, desc);
                        }
                    }
                    if !packed {
                        queue.split().offer(start);
                    } else if rng.below(20) == 0 {
                        queue.packed().flip_wrap();
                    }
                    let _ = queue.kick.write(1);
                }
                6 => {
                    let _ = socket.send_to(&vec![7; rng.below(8900) as usize], "10.77.0.2:9000");
                }
                7 => {
                    let features: u64 = wanted.iter().fold(1 << 30, |f, w| if rng.below(2) == 0 { f | w } else { f });
                    let _ = client.front.set_features(features);
                }
                8 => {
                    let fd = odd_fd(&mut rng)?;
                    let request = 12 + rng.below(3) as u32;
                    let _ = client.send(request, 1, &(at as u64).to_le_bytes(), &[fd.as_fd()]);
                }
                9 => {
                    let _ = client.front.set_vring_enable(at, rng.below(2) == 0);
                }
                10 => match rng.below(4) {
                    0 => drop(client.front.set_mem_table(&[region])),
                    1 => {
                        drop(client.front.remove_mem_region(&region));
                        drop(client.front.add_mem_region(&region));
                    }
                    2 => {
                        drop(client.front.get_vring_base(at));
                        drop(client.start_queue(&queues[at]));
                    }
                    _ => {
                        let mut more = region;
                        more.guest_phys_addr += 1 << 30;
                        more.userspace_addr = USER_BASE + rng.below(1 << 21);
                        more.memory_size = 4096 * (1 + rng.below(4000));
                        drop(client.front.add_mem_region(&more));
                    }
                },
                _ => {
                    let bytes: Vec<u8> = (0..rng.below(64)).map(|_| rng.next() as u8).collect();
                    let q = &queues[at].layout;
                    let base = [q.desc, q.avail, q.used][rng.below(3) as usize];
                    client.memory.map.write_slice(&bytes, GuestAddress(base + rng.below(64)))?;
                }
            }
        }
        // Quiet now: nobody kicks, nothing comes.
        if cases % 4u32 == 0 {
            std::thread::sleep(Duration::from_millis(60));
            let spent = vnicd.spends_in(Duration::from_millis(150))?;
            ensure!(
                spent.cpu <= Duration::from_millis(60),
                "case {cases}: spins: {spent:?} {:?}",
                vnicd.usage()?.threads
            );
        }
        if let Some(status) = vnicd.process().try_status()? {
            anyhow::bail!(
                "case {cases}: died {status}\n{}",
                vnicd.log().iter().rev().take(30).cloned().collect::<Vec<_>>().join("\n")
            );
        }
        if let Some(line) = vnicd.log().iter().find(|l| l.contains("panicked") || l.contains("did not answer")) {
            anyhow::bail!("case {cases}: {line}");
        }
    }
    println!("{cases} cases, {} log lines", vnicd.log().len());
    Ok(())
}
