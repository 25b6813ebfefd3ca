//! The subjects of the modes' comparison carry packets one at a time, and those whose turn it is not leave the CPU alone.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use benches::loadgen::peer::Peer;
use benches::loadgen::{DriverConfig, Rate};
use benches::modes::full::Full;
use benches::modes::quiet::Quiet;
use benches::modes::subject::Cpus;
use benches::modes::{Lab, Sample, Subject};
use benches::testpmd::{BACK_END_CPU, CLIENT_CPU, Memory};

#[test]
fn every_subject_is_measured_and_none_disturbs_another() -> Result<()> {
    let mut lab = Lab::start(Cpus { client: CLIENT_CPU, back_end: BACK_END_CPU }, Memory::available())?;
    let duration = Duration::from_millis(100);
    for subject in Subject::ALL.into_iter().chain(Subject::ALL) {
        let driver = DriverConfig { rate: Rate::Pps(5000.0), duration, ..DriverConfig::default() };
        let outcome = lab.run(subject, driver)?;
        let counts = outcome.counts;
        ensure!(counts.received == counts.sent && counts.corrupt == 0, "{subject}: {}", outcome.table());
        ensure!(Sample::of(&outcome, false).is_some_and(|sample| sample.cpu > 0.0), "{subject}: {}", outcome.table());
        let time = Duration::from_millis(400);
        for idle in lab.pids() {
            let before = Peer::of(idle)?;
            thread::sleep(time / Subject::ALL.len() as u32);
            // The thread that spoke with the client may end meanwhile, and its time with it.
            let cpu = Peer::of(idle)?.cpu.saturating_sub(before.cpu);
            ensure!(cpu < time / 8, "process {idle} used {cpu:?} after the turn of {subject}");
        }
    }
    let mut full = Full::default();
    full.measure(&mut lab, duration)?;
    ensure!(full.calls().is_some() && full.calls_a_burst().is_some_and(|calls| calls > 0.0), "{full:?}");
    let mut quiet = Quiet::default();
    quiet.watch(&lab, duration)?;
    quiet.send_first_packets(&mut lab, 2)?;
    let rounds = |subject| quiet.idle_of(subject).map(|idle| idle.rounds);
    ensure!(rounds(Subject::Interrupt) == Some(0) && rounds(Subject::Polling) > Some(0), "{quiet:?}");
    ensure!(quiet.first_packet_ratio([Subject::Auto, Subject::Interrupt]).is_some(), "{quiet:?}");
    Ok(())
}
