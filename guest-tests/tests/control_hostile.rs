//! Clients of the control socket that are wrong, greedy, slow or many. Frames go on meanwhile, and so do other clients.

use std::io::Write;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::Echo;
use guest_tests::lab::{beside, eventually};
use guest_tests::{NetNs, Vnicd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

/// Most clients that the daemon serves at a time.
const MAX_CLIENTS: usize = 64;
/// Most of them that listen to events.
const MAX_SUBSCRIBERS: usize = 32;

/// Does something while frames go round, each compared with what was sent, and some more afterwards.
fn while_frames_go_round(work: impl FnOnce(&Vnicd) -> Result<()>) -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).uplink("loopback").arg("--queue-pairs=2").control().start()?;
    let mut echo = Echo::start(&vnicd)?;
    let rounds = beside(
        |stop| {
            while !stop.load(Ordering::Relaxed) {
                echo.round()?;
            }
            (0..100).try_for_each(|_| echo.round())?;
            Ok(echo.rounds)
        },
        || {
            eventually("frames go round", || Ok(vnicd.counters("tx_packets")?.iter().any(|frames| *frames > 0)))?;
            work(&vnicd)
        },
    )?;
    eventually("each frame is counted once", || Ok(vnicd.counters("tx_packets")? == [rounds]))
}

#[test]
fn wrong_requests_are_answered_with_what_is_wrong() -> Result<()> {
    let request =
        |method: &str, params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
    let set = |rest: &str| request("mode.set", &format!(r#"{{"target":"nic0/0","mode":"polling",{rest}}}"#));
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    while_frames_go_round(|vnicd| {
        let mut control = vnicd.control()?;
        for (line, code, part) in [
            ("{".into(), -32700, "no JSON"),
            ("\u{fffd}\0".into(), -32700, "no JSON"),
            (request("status", &deep), -32700, "no JSON"),
            (set(r#""for_s":NaN"#), -32700, "no JSON"),
            (set(r#""for_s":1e999"#), -32700, "no JSON"),
            ("[]".into(), -32600, "no JSON-RPC"),
            (r#"{"jsonrpc":"2.0","id":1}"#.into(), -32600, "no JSON-RPC"),
            (request("mode.fly", "{}"), -32601, "there is no method 'mode.fly', but status"),
            (request("mode.show", r#"{"target":"vm7"}"#), -32602, "there is no device 'vm7', but nic0"),
            (request("mode.show", r#"{"target":"nic0/2"}"#), -32602, "nic0 has nic0/0 to nic0/1"),
            (request("mode.show", r#"{"target":"nic0/0/up"}"#), -32602, "'nic0/0/up' is no target"),
            (request("mode.toggle", r#"{"target":"nic0/0/tx"}"#), -32602, "name nic0/0"),
            (request("mode.toggle", "{}"), -32602, "missing field `target`"),
            (request("events", r#"{"target":"nic0"}"#), -32602, "unknown field `target`"),
            (request("map", "7"), -32602, "7"),
            (set(r#""for_s":-1"#), -32602, "for_s -1"),
            (set(r#""for_s":1e300"#), -32602, "for_s 1e300"),
            (set(r#""for_s":"5s""#), -32602, "5s"),
            (set(r#""until":5"#), -32602, "unknown field `until`"),
            (set(r#""for_s":0"#), -32000, "nic0/0: a mode cannot be set for no time"),
            (set(r#""for_s":1e-12"#), -32000, "nic0/0: a mode cannot be set for no time"),
        ] {
            let answer = control.exchange(&line)?;
            let message = answer["error"]["message"].as_str().unwrap_or_default();
            ensure!(answer["error"]["code"] == code && message.contains(part), "{line}: {answer}");
        }
        let modes = control.call("mode.show", Value::Null)?;
        ensure!(modes["lanes"][0]["mode"]["setting"] == "auto", "something was set: {modes}");
        // What is no request is skipped, and what wants no answer gets none.
        control.send(b"\n \r\n{\"jsonrpc\":\"2.0\",\"method\":\"status\"}\n")?;
        ensure!(control.call("map", Value::Null)?["queues"][0]["id"] == "nic0/0");
        Ok(())
    })
}

#[test]
fn a_line_of_a_gibibyte_takes_no_memory() -> Result<()> {
    while_frames_go_round(|vnicd| {
        let before = vnicd.usage()?.rss_private_bytes;
        let mut endless = vnicd.control()?;
        let piece = vec![b'x'; 1 << 20];
        let sent = (0..1024).take_while(|_| endless.send(&piece).is_ok()).count();
        ensure!(sent < 1024, "a request of 1 GiB was taken");
        let answer = endless.line()?.context("no answer")?;
        ensure!(answer["error"]["code"] == -32600, "{answer}");
        let grown = vnicd.usage()?.rss_private_bytes.saturating_sub(before);
        ensure!(grown < 8 << 20, "it grew by {grown} bytes");
        vnicd.status().map(drop)
    })
}

#[test]
fn a_thousand_idle_clients_shut_nobody_out() -> Result<()> {
    const CROWD: usize = 1000;
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.map_or(4096, |maximum| maximum.min(4096));
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit.current.unwrap_or(4096).max(enough)), ..limit })?;
    while_frames_go_round(|vnicd| {
        let mut listening = vnicd.control()?;
        listening.call("events", Value::Null)?;
        let crowd = (0..CROWD).map(|_| vnicd.control()).collect::<Result<Vec<_>>>()?;
        for _ in 0..3 {
            vnicd.status()?;
        }
        let usage = vnicd.usage()?;
        ensure!(usage.fds < MAX_CLIENTS + 100, "{} descriptors are open", usage.fds);
        // One that listens to events is not idle.
        vnicd.control()?.call("mode.set", json!({ "target": "nic0/0", "mode": "polling" }))?;
        let change = listening.line()?.context("the subscriber had to leave")?;
        ensure!(change["params"]["to"] == "polling", "{change}");
        drop(crowd);
        vnicd.status().map(drop)
    })
}

#[test]
fn many_listen_and_others_are_still_let_in() -> Result<()> {
    while_frames_go_round(|vnicd| {
        let mut clients = (0..=MAX_SUBSCRIBERS).map(|_| vnicd.control()).collect::<Result<Vec<_>>>()?;
        let mut one_too_many = clients.pop().context("no client")?;
        for client in &mut clients {
            client.call("events", Value::Null)?;
        }
        let refusal = one_too_many.call("events", Value::Null);
        ensure!(refusal.is_err_and(|e| e.to_string().contains("32 clients listen")), "it may listen");
        vnicd.status()?;
        drop(clients);
        eventually("there is room to listen", || Ok(one_too_many.call("events", Value::Null).is_ok()))
    })
}

#[test]
fn a_subscriber_that_does_not_read_loses_events_and_delays_nobody() -> Result<()> {
    const TOGGLES: u64 = 4000;
    while_frames_go_round(|vnicd| {
        let (mut deaf, mut control) = (vnicd.control()?, vnicd.control()?);
        control.call("mode.set", json!({ "target": "nic0/0", "mode": "interrupt" }))?;
        deaf.call("events", Value::Null)?;
        for _ in 0..TOGGLES {
            control.call("mode.toggle", json!({ "target": "nic0/0" }))?;
        }
        let (mut heard, mut lost) = (0, 0);
        while heard + lost < TOGGLES {
            let line = deaf.line()?.context("the subscriber was let go of")?;
            match line["method"].as_str() {
                Some("mode.changed") => heard += 1,
                Some("events.lost") => lost += line["params"]["events"].as_u64().context("how many?")?,
                _ => anyhow::bail!("{line}"),
            }
        }
        ensure!(heard + lost == TOGGLES && lost > 0 && heard > 100, "{heard} heard, {lost} lost");
        control.call("mode.toggle", json!({ "target": "nic0/0" }))?;
        let line = deaf.line()?.context("the subscriber was let go of")?;
        ensure!(line["params"]["reason"] == "toggled", "it does not hear again: {line}");
        Ok(())
    })
}

#[test]
fn clients_that_ask_and_never_read_or_hang_up_early_cost_nothing() -> Result<()> {
    while_frames_go_round(|vnicd| {
        let idle = vnicd.usage()?;
        let mut deaf = Vec::new();
        for _ in 0..8 {
            let client = vnicd.control()?;
            client.stream().set_nonblocking(true)?;
            while client.stream().write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"status\",\"id\":1}\n").is_ok() {}
            deaf.push(client);
        }
        for _ in 0..200 {
            vnicd.control()?.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"stats\",\"id\":1}\n{\"json")?;
            vnicd.control()?.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"events\",\"id\":1}\n")?;
        }
        vnicd.status()?;
        let grown = vnicd.usage()?.rss_private_bytes.saturating_sub(idle.rss_private_bytes);
        ensure!(grown < 8 << 20, "it grew by {grown} bytes");
        drop(deaf);
        eventually("all are let go of", || Ok(vnicd.usage()?.fds <= idle.fds))?;
        vnicd.status().map(drop)
    })
}
