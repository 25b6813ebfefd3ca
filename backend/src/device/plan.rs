//! From the configuration to what may be opened for it.

#![forbid(unsafe_code)]

use crate::config::{Config, ConfigError, DeviceOptions, Named, SocketGroup, UplinkSpec, XdpSpec};
use crate::opener::{DevicePlan, EntrancePlan, ListenRequest, Plan, StatePlan, TapRequest, UplinkPlan, XdpRequest};
use crate::record;

/// Permission bits of the control socket: whoever may connect may give orders.
const CONTROL_MODE: u32 = 0o600;

/// What the daemon and its devices need. Groups are looked up for it, which takes the right to read files.
///
/// # Errors
/// When there is no such group.
pub fn plan(config: &Config) -> Result<Plan, ConfigError> {
    let control = config.control.clone();
    let devices = config.defined().map(|(device, origin)| {
        let state = config.state_dir.clone().map(|dir| StatePlan { dir, len: record::LEN as u64 });
        let entrance = entrance(device)
            .map_err(|what| ConfigError::Device { device: Named(device.name, origin.cloned()), what })?;
        Ok((
            device.name.to_string(),
            DevicePlan { entrance, uplink: uplink(device), state, realtime: device.realtime_priority },
        ))
    });
    Ok(Plan {
        control: control.map(|path| ListenRequest { path, mode: Some(CONTROL_MODE), group: None }),
        metrics: config.metrics.map(|address| address.0),
        devices: devices.collect::<Result<_, _>>()?,
    })
}

fn entrance(options: &DeviceOptions) -> Result<Option<EntrancePlan>, String> {
    if let Some(fd) = options.fd {
        return Ok(Some(EntrancePlan::Passed(fd)));
    }
    let Some(path) = options.socket_path.clone() else { return Ok(None) };
    if options.client {
        return Ok(Some(EntrancePlan::Connect(path)));
    }
    let mode = options.socket_mode.map(|mode| mode.0);
    let group = options.socket_group.as_ref().map(SocketGroup::number).transpose()?;
    Ok(Some(EntrancePlan::Listen(ListenRequest { path, mode, group })))
}

fn uplink(options: &DeviceOptions) -> Option<UplinkPlan> {
    let queues = options.queue_pairs;
    match &options.uplink {
        UplinkSpec::Tap { name, bridge, sndbuf, persist } => {
            let (name, bridge) = (name.clone(), bridge.clone());
            let (sndbuf, persist, mtu) = (*sndbuf, *persist, options.mtu);
            Some(UplinkPlan::Tap(TapRequest { name, bridge, queues, sndbuf, persist, mtu }))
        }
        UplinkSpec::TapFd(fds) => Some(UplinkPlan::TapFd(fds.clone())),
        UplinkSpec::Macvtap(name) => Some(UplinkPlan::Macvtap { name: name.clone(), queues }),
        UplinkSpec::AfXdp(spec) => Some(UplinkPlan::Xdp(xdp_request(options, spec))),
        UplinkSpec::Discard { .. } | UplinkSpec::Generate { .. } | UplinkSpec::Loopback => None,
    }
}

/// Which queues of an interface a device has.
pub(super) fn xdp_request(options: &DeviceOptions, spec: &XdpSpec) -> XdpRequest {
    XdpRequest {
        interface: spec.interface.clone(),
        queue: spec.queue,
        queues: options.queue_pairs.into(),
        mode: spec.mode,
        mac: options.mac.filter(|_| spec.by_mac).map(|mac| mac.0),
        force: spec.force,
        sockets: spec.fds.clone(),
    }
}
