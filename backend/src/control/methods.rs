//! What can be asked and ordered, but for events and captures.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::map::map;
use super::reloads::Reloads;
use super::{LaneMode, Request, RpcError, SinceStart, Stats, Status, Target};
use crate::mode::{Mode, Order};
use crate::nic::{Lane, Nic, Nics, OrderError};

/// Longest time for which a mode can be set.
const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// The parameters of methods that have none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfAny {
    #[serde(default)]
    target: Target,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    target: Target,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    target: Target,
    mode: Mode,
    #[serde(default)]
    for_s: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Number {
    reload: u64,
}

/// Answers requests about devices.
#[derive(Debug)]
pub(super) struct Methods {
    nics: Nics,
    reloads: Reloads,
    start: SinceStart,
}

impl Methods {
    pub(super) fn new(nics: Nics, reloads: Reloads, start: SinceStart) -> Self {
        Self { nics, reloads, start }
    }

    pub(super) fn call(&self, request: &Request) -> Result<Value, RpcError> {
        match request.method.as_str() {
            "status" => params(request).map(|Nothing {}| json!(Status::of(&self.nics.all()))),
            "map" => params(request).map(|Nothing {}| json!({ "queues": map(&self.nics.all()) })),
            "stats" => {
                let OfAny { target } = params(request)?;
                let nics = self.nics.all();
                Ok(json!(Stats::of(&lanes(&target, &nics)?, self.start)))
            }
            "mode.show" => {
                let OfAny { target } = params(request)?;
                Ok(modes(&lanes(&target, &self.nics.all())?))
            }
            "mode.set" => {
                let Set { target, mode, for_s } = params(request)?;
                self.order(&target, Order::Set(mode, for_s.map(time).transpose()?))
            }
            "mode.toggle" => params(request).and_then(|Of { target }| self.order(&target, Order::Toggle)),
            "mode.auto" => params(request).and_then(|Of { target }| self.order(&target, Order::Auto)),
            "configuration" => params(request).map(|Nothing {}| json!(self.reloads.configuration())),
            "reload" => params(request).map(|Nothing {}| json!({ "reload": self.reloads.ask() })),
            "reload.outcome" => {
                let Number { reload } = params(request)?;
                Ok(json!(self.reloads.outcome(reload)))
            }
            other => Err(RpcError::unknown_method(other)),
        }
    }

    /// The modes of all lanes.
    pub(super) fn all_modes(&self) -> Value {
        let nics = self.nics.all();
        modes(&nics.iter().flat_map(|nic| nic.lanes()).collect::<Vec<_>>())
    }

    /// The devices that there are.
    pub(super) fn nics(&self) -> Vec<Arc<Nic>> {
        self.nics.all()
    }

    fn order(&self, target: &Target, order: Order) -> Result<Value, RpcError> {
        let nics = self.nics.all();
        let mut lanes = lanes(target, &nics)?;
        let is_running = |lane: &&Lane| lane.worker().is_some();
        // A time begins for those that run. If none does, the first one says so.
        if matches!(order, Order::Set(_, Some(_))) && lanes.iter().any(is_running) {
            lanes.retain(is_running);
        }
        tracing::info!(%target, ?order, "a mode is ordered");
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for lane in &lanes {
            match lane.order_mode(order) {
                Ok(()) => done.push(lane.id.to_string()),
                Err(e) => {
                    let is_stuck = matches!(e, OrderError::Worker { .. });
                    failed.push((lane.id.to_string(), e.to_string()));
                    // The next one may take as long not to answer, and all clients wait.
                    if is_stuck {
                        break;
                    }
                }
            }
        }
        if failed.is_empty() { Ok(modes(&lanes)) } else { Err(RpcError::order_failed(&failed, &done)) }
    }
}

/// The parameters of a request.
pub(super) fn params<T: DeserializeOwned>(request: &Request) -> Result<T, RpcError> {
    let params = if request.params.is_null() { json!({}) } else { request.params.clone() };
    serde_json::from_value(params).map_err(|e| RpcError::invalid_params(format!("{}: {e}", request.method)))
}

/// The lanes that `target` names.
pub(super) fn lanes<'a>(target: &Target, nics: &'a [Arc<Nic>]) -> Result<Vec<&'a Lane>, RpcError> {
    target.lanes(nics).map_err(RpcError::invalid_params)
}

fn time(seconds: f64) -> Result<Duration, RpcError> {
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= MAX_TIME);
    time.ok_or_else(|| {
        let max_s = MAX_TIME.as_secs();
        RpcError::invalid_params(format!(
            "for_s {seconds:?} is no time: 0 to {max_s} seconds, or none to set it for good"
        ))
    })
}

fn modes(lanes: &[&Lane]) -> Value {
    json!({ "lanes": lanes.iter().map(|lane| LaneMode::of(lane)).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::nic;
    use crate::worker::{Direction, Threads};

    fn methods() -> Methods {
        Methods::new([nic("vm1", 2, Threads::PerPair)].into_iter().collect(), Reloads::default(), SinceStart::now())
    }

    fn call(methods: &Methods, method: &str, params: Value) -> Result<Value, RpcError> {
        methods.call(&Request { jsonrpc: "2.0".into(), method: method.into(), params, id: Some(1.into()) })
    }

    #[test]
    fn a_mode_is_ordered_before_there_is_a_worker() {
        let methods = methods();
        let modes = |answer: Value| -> Vec<String> {
            let lanes = answer["lanes"].as_array().unwrap().clone();
            lanes.iter().map(|lane| format!("{} {}", lane["id"], lane["mode"]["setting"]).replace('"', "")).collect()
        };
        let set = call(&methods, "mode.set", json!({ "target": "vm1/1", "mode": "polling" })).unwrap();
        assert_eq!(modes(set), ["vm1/1 polling"]);
        assert_eq!(modes(call(&methods, "mode.show", Value::Null).unwrap()), ["vm1/0 auto", "vm1/1 polling"]);
        let toggled = call(&methods, "mode.toggle", json!(["all"])).unwrap();
        assert_eq!(modes(toggled), ["vm1/0 polling", "vm1/1 interrupt"]);
        assert_eq!(
            modes(call(&methods, "mode.auto", json!({ "target": "all" })).unwrap()),
            ["vm1/0 auto", "vm1/1 auto"]
        );
        assert_eq!(call(&methods, "stats", Value::Null).unwrap()["lanes"], json!([]), "nothing runs");
        assert_eq!(call(&methods, "map", Value::Null).unwrap()["queues"][1]["rx_ring"], 2);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let methods = methods();
        for (method, params, part) in [
            ("mode.set", json!({ "target": "vm1", "mode": "fast" }), "unknown variant `fast`"),
            ("mode.set", json!({ "target": "vm1", "mode": "polling", "for_s": -1 }), "for_s -1.0 is no time"),
            ("mode.set", json!({ "target": "vm1", "mode": "polling", "for_s": 1e300 }), "for_s 1e300 is no time"),
            ("mode.set", json!({ "target": "vm1", "mode": "polling", "for_s": 3.2e7 }), "for_s 32000000.0 is no time"),
            ("mode.set", json!({ "target": "vm1", "mode": "polling", "for_s": "NaN" }), "invalid type: string \"NaN\""),
            ("mode.set", json!({ "target": "vm1", "mode": "polling", "for": 1 }), "unknown field `for`"),
            ("mode.set", json!({ "target": "vm1" }), "missing field `mode`"),
            ("mode.toggle", Value::Null, "missing field `target`"),
            ("mode.toggle", json!({ "target": "vm1/7" }), "no queue pair vm1/7"),
            ("mode.auto", json!({ "target": 7 }), "invalid type: integer `7`"),
            ("mode.show", json!({ "target": "vm9" }), "there is no device 'vm9', but vm1"),
            ("stats", json!({ "target": "vm1/0/rx" }), "vm1/0/rx has no mode"),
            ("map", json!({ "target": "vm1" }), "unknown field `target`"),
            ("status", json!("all"), "invalid type: string"),
            ("configuration", json!({ "name": "vm1" }), "unknown field `name`"),
        ] {
            let error = call(&methods, method, params.clone()).unwrap_err();
            assert!(error.code == -32602 && error.message.contains(part), "{method} {params}: {error:?}");
        }
        assert_eq!(call(&methods, "mode.get", Value::Null).unwrap_err().code, -32601);
    }

    #[test]
    fn an_order_that_fails_in_part_says_what_was_done() {
        // A ring that runs makes the other one's time-limited order fail no more.
        let methods = methods();
        let order = json!({ "target": "all", "mode": "polling", "for_s": 5 });
        let error = call(&methods, "mode.set", order.clone()).unwrap_err();
        assert!(error.code == -32000 && error.message.starts_with("vm1/0 has no worker before"), "{error:?}");
        assert_eq!(error.data.unwrap(), json!({ "failed": ["vm1/0", "vm1/1"], "done": [] }));

        let ring = methods.nics.all()[0].lanes()[0].id.with(Direction::Rx);
        methods.nics.all()[0].start_worker(ring).unwrap();
        let answer = call(&methods, "mode.set", order).unwrap();
        assert_eq!(
            (answer["lanes"].as_array().unwrap().len(), &answer["lanes"][0]["mode"]["mode"]),
            (1, &json!("polling"))
        );
        assert!(answer["lanes"][0]["mode"]["setting_ends_in_s"].as_f64().is_some_and(|s| s <= 5.0), "{answer}");

        methods.nics.all()[0].give_up(ring);
        let error = call(&methods, "mode.toggle", json!({ "target": "all" })).unwrap_err();
        assert!(error.message.starts_with("vm1/0 has no worker any more"), "{error:?}");
        assert!(error.message.ends_with("; done: vm1/1"), "{error:?}");
        assert_eq!(error.data.unwrap(), json!({ "failed": ["vm1/0"], "done": ["vm1/1"] }));
    }
}
