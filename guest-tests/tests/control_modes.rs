//! Modes as an operator shows, sets and watches them, on a device that carries frames meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::Echo;
use guest_tests::lab::eventually;
use guest_tests::{Control, NetNs, Vnicd};
use serde_json::{Value, json};

const SET_VRING_KICK: u32 = 12;
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;
/// Of SET_VRING_KICK: no fd comes with it.
const NO_FD: u64 = 1 << 8;

fn vnicd(args: &[&str]) -> Result<(NetNs, Vnicd)> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).uplink("loopback").arg("--queue-pairs=2").args(args).control().start()?;
    Ok((ns, vnicd))
}

/// Mode, reason and setting of a lane, with blanks between.
fn mode(vnicd: &Vnicd, lane: &str) -> Result<String> {
    let answer = vnicd.control()?.call("mode.show", json!({ "target": lane }))?;
    let lanes = answer["lanes"].as_array().context("no lanes")?;
    ensure!(lanes.len() == 1 && lanes[0]["id"] == lane, "{answer}");
    let words = ["mode", "reason", "setting"].map(|name| lanes[0]["mode"][name].as_str().unwrap_or("?"));
    Ok(words.join(" "))
}

/// Runs vnicctl, which must succeed.
fn ctl(vnicd: &Vnicd, line: &str) -> Result<String> {
    vnicd.vnicctl(&line.split(' ').collect::<Vec<_>>())?.ok(line)
}

/// Runs vnicctl, which must fail with one line.
fn ctl_fails(vnicd: &Vnicd, line: &str) -> Result<String> {
    let output = vnicd.vnicctl(&line.split(' ').collect::<Vec<_>>())?;
    ensure!(output.status == 1 && output.stdout.is_empty(), "{line}: {output:?}");
    ensure!(output.stderr.lines().count() == 1 && output.stderr.starts_with("vnicctl: "), "{line}: {output:?}");
    Ok(output.stderr)
}

#[test]
fn a_mode_is_set_toggled_and_given_back() -> Result<()> {
    let (_ns, vnicd) = vnicd(&[])?;
    let mut echo = Echo::start(&vnicd)?;
    ensure!(mode(&vnicd, "nic0/0")?.ends_with("auto"));
    for (command, expected) in [
        ("mode set nic0/0 polling", "polling override polling"),
        ("mode toggle nic0/0", "interrupt toggled interrupt"),
        ("mode toggle nic0/0", "polling toggled polling"),
        ("mode set all interrupt", "interrupt override interrupt"),
    ] {
        echo.round()?;
        let shown = ctl(&vnicd, command)?;
        ensure!(shown.contains(expected.split(' ').next_back().context("no setting")?), "{command}:\n{shown}");
        ensure!(mode(&vnicd, "nic0/0")? == expected, "{command}: {}", mode(&vnicd, "nic0/0")?);
        echo.round()?;
    }
    let shown = ctl(&vnicd, "mode auto nic0")?;
    ensure!(shown.contains("override_ended") && shown.contains("auto"), "{shown}");
    let pair = &vnicd.status()?["devices"][0]["pairs"][0];
    ensure!(pair["mode"]["setting"] == "auto" && pair["mode"]["switches"]["toggled"] == 2, "{pair}");
    echo.round()
}

#[test]
fn a_mode_for_a_time_gives_way_to_what_stood_before() -> Result<()> {
    let (_ns, vnicd) = vnicd(&[])?;
    ensure!(ctl_fails(&vnicd, "mode set nic0 polling --for 1s")?.contains("nic0/0 has no worker before a guest"));
    let mut echo = Echo::start(&vnicd)?;
    for before in ["interrupt", "polling", "auto"] {
        let other = if before == "polling" { "interrupt" } else { "polling" };
        match before {
            "auto" => ctl(&vnicd, "mode auto nic0/0")?,
            mode => ctl(&vnicd, &format!("mode set nic0/0 {mode}"))?,
        };
        let start = std::time::Instant::now();
        // Of all pairs only those that run are concerned.
        let shown = ctl(&vnicd, &format!("mode set all {other} --for 300ms"))?;
        ensure!(shown.contains("for another") && !shown.contains("nic0/1"), "{shown}");
        eventually("what stood before stands again", || {
            echo.round()?;
            let now = mode(&vnicd, "nic0/0")?;
            ensure!(now.starts_with(other) || start.elapsed() >= Duration::from_millis(300), "too early: {now}");
            Ok(now.ends_with(before))
        })?;
        if before != "auto" {
            let now = mode(&vnicd, "nic0/0")?;
            ensure!(now == format!("{before} override_ended {before}"), "{now}");
        }
    }
    Ok(())
}

/// The next change of mode, as lane, modes and reason.
fn change(control: &mut Control) -> Result<(String, f64)> {
    let line = control.line()?.context("the connection was closed")?;
    ensure!(line["method"] == "mode.changed" && line.get("id").is_none(), "{line}");
    let change = &line["params"];
    let words = ["id", "from", "to", "reason"].map(|name| change[name].as_str().unwrap_or("?"));
    ensure!(change["time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{change}");
    Ok((words.join(" "), change["at_s"].as_f64().context("no time")?))
}

#[test]
fn changes_of_mode_are_told_to_whoever_listens() -> Result<()> {
    let (_ns, vnicd) = vnicd(&[])?;
    let mut echo = Echo::start(&vnicd)?;
    let (mut first, mut second) = (vnicd.control()?, vnicd.control()?);
    let modes = first.call("events", Value::Null)?;
    ensure!(modes["lanes"][0]["mode"]["mode"] == "interrupt", "{modes}");
    ctl(&vnicd, "mode set nic0/0 polling")?;
    let modes = second.call("events", json!({}))?;
    ensure!(modes["lanes"][0]["mode"]["mode"] == "polling", "{modes}");
    ctl(&vnicd, "mode toggle nic0/0")?;
    ctl(&vnicd, "mode set nic0/0 polling --for 300ms")?;
    ensure!(change(&mut first)?.0 == "nic0/0 interrupt polling override");
    let mut last = 0.0;
    for expected in ["polling interrupt toggled", "interrupt polling override", "polling interrupt override_ended"] {
        let heard = change(&mut first)?;
        ensure!(heard.0 == format!("nic0/0 {expected}"), "{heard:?}");
        ensure!(heard.1 >= last, "time goes back: {heard:?} after {last}");
        ensure!(change(&mut second)? == heard, "the second one hears otherwise");
        last = heard.1;
    }
    // A subscriber asks like everybody, and one that sends nothing more still hears.
    ensure!(first.call("mode.show", json!({ "target": "nic0/0" }))?["lanes"][0]["mode"]["mode"] == "interrupt");
    first.stream().shutdown(std::net::Shutdown::Write)?;
    drop(second);
    ctl(&vnicd, "mode toggle nic0")?;
    ensure!(change(&mut first)?.0 == "nic0/0 interrupt polling toggled");
    echo.round()
}

#[test]
fn vnicctl_prints_changes_until_its_reader_or_the_daemon_goes() -> Result<()> {
    let (_ns, vnicd) = vnicd(&[])?;
    let _echo = Echo::start(&vnicd)?;
    let (text, json) = (vnicd.spawn_vnicctl(&["events"])?, vnicd.spawn_vnicctl(&["events", "--json"])?);
    eventually("changes are printed", || {
        ctl(&vnicd, "mode toggle nic0/0")?;
        Ok(text.lines().contains("toggled") && json.lines().contains("toggled"))
    })?;
    let line = text.wait_for_line("toggled", Duration::ZERO)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    ensure!(words.len() == 4 && words[1] == "nic0/0" && words[3] == "toggled", "{line}");
    let change: Value = serde_json::from_str(&json.wait_for_line("toggled", Duration::ZERO)?)?;
    ensure!(change["id"] == "nic0/0" && change["reason"] == "toggled", "{change}");
    vnicd.terminate()?;
    let output = text.wait_output(Duration::from_secs(10))?;
    ensure!(output.status == 1 && output.stderr.contains("closed the connection"), "{output:?}");
    Ok(())
}

#[test]
fn a_mode_set_before_there_is_a_guest_holds_when_it_comes() -> Result<()> {
    let (_ns, vnicd) = vnicd(&[])?;
    let shown = ctl(&vnicd, "mode set nic0/0 polling")?;
    ensure!(shown.contains("no worker yet"), "{shown}");
    ensure!(mode(&vnicd, "nic0/0")? == "polling initial polling");
    ensure!(mode(&vnicd, "nic0/1")? == "interrupt initial auto");
    let mut echo = Echo::start(&vnicd)?;
    echo.round()?;
    ensure!(mode(&vnicd, "nic0/0")? == "polling initial polling");
    // And it holds for the next guest.
    drop(echo);
    vnicd.wait_for_line("front end gone", Duration::from_secs(10))?;
    Echo::start(&vnicd)?.round()?;
    ensure!(mode(&vnicd, "nic0/0")? == "polling initial polling");
    Ok(())
}

#[test]
fn directions_have_modes_where_they_have_workers() -> Result<()> {
    let (_ns, shared) = vnicd(&[])?;
    let error = ctl_fails(&shared, "mode set nic0/0/rx polling")?;
    ensure!(error.contains("name nic0/0") && error.contains("threads = \"per-direction\""), "{error}");

    let (_ns, vnicd) = vnicd(&["--threads=per-direction"])?;
    let mut echo = Echo::start(&vnicd)?;
    ctl(&vnicd, "mode set nic0/0/rx polling")?;
    ensure!(mode(&vnicd, "nic0/0/rx")?.starts_with("polling") && mode(&vnicd, "nic0/0/tx")?.starts_with("interrupt"));
    echo.round()?;
    ctl(&vnicd, "mode toggle nic0/0")?;
    ensure!(mode(&vnicd, "nic0/0/rx")?.starts_with("interrupt") && mode(&vnicd, "nic0/0/tx")?.starts_with("polling"));
    let map = ctl(&vnicd, "map")?;
    ensure!(map.lines().filter(|line| line.starts_with("nic0/0/")).count() == 2, "{map}");
    echo.round()
}

#[test]
fn an_order_that_a_ring_cannot_follow_names_it_and_what_was_done() -> Result<()> {
    let (_ns, vnicd) = vnicd(&[])?;
    let mut echo = Echo::start(&vnicd)?;
    echo.client.send(SET_VRING_KICK, VERSION | NEED_REPLY, &(1 | NO_FD).to_le_bytes(), &[])?;
    ensure!(echo.client.reply()?.and_then(|reply| reply.value()) == Some(0), "a kick without fd is refused");
    eventually("the ring has no kick fd", || Ok(mode(&vnicd, "nic0/0")?.starts_with("polling no_kick_fd")))?;
    let error = ctl_fails(&vnicd, "mode set nic0 interrupt")?;
    ensure!(error.contains("nic0/0: interrupt mode is not possible: the tx ring has no kick fd"), "{error}");
    ensure!(error.trim_end().ends_with("; done: nic0/1"), "{error}");
    ensure!(mode(&vnicd, "nic0/0")?.ends_with("auto") && mode(&vnicd, "nic0/1")?.ends_with("interrupt"));
    echo.round()
}

#[test]
fn the_map_names_worker_thread_cpu_rings_and_front_end() -> Result<()> {
    let (_ns, vnicd) = vnicd(&["--cpus=0"])?;
    let before = ctl(&vnicd, "map")?;
    ensure!(before.contains("nic0/0 to nic0/1") && before.contains("none yet"), "{before}");
    let _echo = Echo::start(&vnicd)?;
    let map: Value = serde_json::from_str(&ctl(&vnicd, "map --json")?)?;
    let (pair, idle) = (&map["queues"][0], &map["queues"][1]);
    let thread = vnicd.usage()?.threads.into_iter().find(|thread| thread.name == "nic0/0").context("no worker")?;
    for (name, expected) in [
        ("id", json!("nic0/0")),
        ("worker", json!("nic0/0")),
        ("thread_id", json!(thread.tid)),
        ("cpu", json!(0)),
        ("rx_ring", json!(0)),
        ("tx_ring", json!(1)),
        ("uplink", json!("loopback")),
        ("uplink_queue", json!(0)),
        ("front_end_pid", json!(std::process::id())),
    ] {
        ensure!(pair[name] == expected, "{name}: {pair}");
    }
    ensure!(idle["worker"] == Value::Null && idle["rx_ring"] == 2, "{idle}");
    Ok(())
}

#[test]
fn stats_count_and_rates_are_watched() -> Result<()> {
    let (_ns, vnicd) = vnicd(&[])?;
    ensure!(ctl(&vnicd, "stats nic0/1")?.contains("nothing is counted yet"));
    let mut echo = Echo::start(&vnicd)?;
    for _ in 0..20 {
        echo.round()?;
    }
    let stats: Value = serde_json::from_str(&ctl(&vnicd, "stats nic0 --json")?)?;
    let lanes = stats["lanes"].as_array().context("no lanes")?;
    ensure!(lanes.len() == 1 && lanes[0]["counters"]["tx_packets"] == 20, "{stats}");
    ensure!(ctl(&vnicd, "stats nic0/0")?.contains("rx_bytes"));

    let (text, json) =
        (vnicd.spawn_vnicctl(&["stats", "--watch", "0.1"])?, vnicd.spawn_vnicctl(&["stats", "--watch", "--json"])?);
    let rate = |line: &str| -> Option<f64> {
        serde_json::from_str::<Value>(line).ok()?["lanes"][0]["per_second"]["tx_packets"].as_f64()
    };
    eventually("rates of frames", || {
        echo.round()?;
        let counts = |line: &String| line.starts_with("nic0/0") && line.split_whitespace().nth(2) != Some("0");
        Ok(text.lines().all().iter().any(counts) && json.lines().all().iter().any(|line| rate(line) > Some(0.0)))
    })
}
