//! The opener itself: knows the plan, and opens what is asked for of it.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{OwnedFd, RawFd};

use super::adopt::{self, Adopted};
use super::listen::{self, SocketFile};
use super::messages::{Answer, Place, ProgramTerms, Request};
use super::plan::{DevicePlan, EntrancePlan, Plan, Reread, UplinkPlan};
use super::{OpenedTap, OpenedXdp, TapRequest, macvtap, port, realtime, state, tap, xdp};

/// An answer and what comes with it.
pub(super) type Reply = (Answer, Vec<OwnedFd>);

/// Opens what is planned, and nothing else.
#[derive(Debug, Default)]
pub struct Opener {
    /// The process that asks.
    daemon: u32,
    plan: Plan,
    /// How the plan is made anew, if it can be.
    reread: Option<Reread>,
    /// What was left open for the daemon and not yet handed over.
    passed: HashMap<RawFd, OwnedFd>,
    /// Sockets that were made.
    sockets: HashMap<Place, SocketFile>,
    /// The interface of a device's uplink, where a front end may have a say in its MTU.
    interfaces: HashMap<String, String>,
}

impl Opener {
    /// An opener for `plan`. Takes over the descriptors that it speaks of: to be made once, and before anything else is
    /// opened, which might get the number of one that is missing.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let passed = plan.passed().filter_map(|fd| Some((fd, adopt::take(fd)?))).collect();
        // Made by the daemon, in its own process, whatever becomes of it.
        Self { daemon: std::process::id(), plan, passed, ..Self::default() }
    }

    /// The same, with a plan that changes when its source does.
    #[must_use]
    pub fn reread_by(self, reread: Option<Reread>) -> Self {
        Self { reread, ..self }
    }

    /// Whether the plan may change.
    pub(super) fn may_change(&self) -> bool {
        self.reread.is_some()
    }

    /// What may be opened.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Opens what is asked for, if it is planned.
    pub(super) fn answer(&mut self, request: &Request) -> Reply {
        self.open(request).unwrap_or_else(|e| (Answer::refused(text_of(&*e)), Vec::new()))
    }

    fn open(&mut self, request: &Request) -> Result<Reply, Box<dyn Error>> {
        Ok(match request {
            Request::Control => self.listen(&Place::Control)?,
            Request::Remove(place) => {
                if let Some(file) = self.sockets.remove(place) {
                    file.remove();
                }
                (Answer::Done, Vec::new())
            }
            Request::Metrics => {
                let address = self.plan.metrics.ok_or("no port for metrics is configured")?;
                (Answer::Listening, vec![port::bind(address)?.into()])
            }
            Request::Entrance(name) => self.entrance(name)?,
            Request::Connect(name) => match &self.device(name)?.entrance {
                Some(EntrancePlan::Connect(path)) => (Answer::Connected, vec![listen::connect(path)?.into()]),
                _ => return Err(format!("device '{name}' connects to nobody").into()),
            },
            Request::Uplink(name) => self.uplink(name)?,
            Request::State(name) => match &self.device(name)?.state {
                Some(plan) => (Answer::Done, vec![state::open_state(&plan.dir, name, plan.len)?.into()]),
                None => (Answer::Done, Vec::new()),
            },
            Request::Mtu(name, mtu) => {
                let interface =
                    self.interfaces.get(name).ok_or_else(|| format!("device '{name}' has no MTU to set"))?;
                tap::set_mtu(interface, *mtu)?;
                (Answer::Done, Vec::new())
            }
            Request::Realtime(name, thread) => {
                let priority = self.device(name)?.realtime.ok_or("no real-time priority is configured")?;
                match thread {
                    Some(thread) => realtime::prioritize(self.daemon, *thread, priority)?,
                    None => realtime::try_priority(priority)?,
                }
                (Answer::Done, Vec::new())
            }
            Request::Reread => {
                let reread = self.reread.as_ref().ok_or("there is no configuration file to read again")?;
                let (plan, text) = reread.read()?;
                self.plan.devices = plan.devices;
                self.interfaces.retain(|name, _| self.plan.devices.contains_key(name));
                (Answer::Done, vec![in_memory(&text)?.into()])
            }
        })
    }

    fn device(&self, name: &str) -> Result<&DevicePlan, String> {
        self.plan.devices.get(name).ok_or_else(|| format!("no device '{name}' is configured"))
    }

    fn listen(&mut self, place: &Place) -> Result<Reply, Box<dyn Error>> {
        let request = match place {
            Place::Control => self.plan.control.as_ref(),
            Place::Device(name) => match &self.device(name)?.entrance {
                Some(EntrancePlan::Listen(request)) => Some(request),
                _ => None,
            },
        };
        let (listener, file) = listen::listen(request.ok_or("no such socket is configured")?)?;
        self.sockets.insert(place.clone(), file);
        Ok((Answer::Listening, vec![listener.into()]))
    }

    fn entrance(&mut self, name: &str) -> Result<Reply, Box<dyn Error>> {
        let passed = match &self.device(name)?.entrance {
            Some(EntrancePlan::Listen(_)) => return self.listen(&Place::Device(name.to_owned())),
            Some(EntrancePlan::Connect(path)) => {
                listen::check_path(path)?;
                return Ok((Answer::Connects, Vec::new()));
            }
            Some(EntrancePlan::Passed(fd)) => *fd,
            None => return Err(format!("device '{name}' has no entrance").into()),
        };
        Ok(match adopt::adopt(passed, self.passed.remove(&passed))? {
            Adopted::Connected(stream) => (Answer::Connected, vec![stream.into()]),
            Adopted::Listening(listener) => {
                if self.may_change() {
                    // Its device may be opened anew, with other options, and the socket was passed only once.
                    self.passed.insert(passed, listener.try_clone()?.into());
                }
                (Answer::Passed, vec![listener.into()])
            }
        })
    }

    fn uplink(&mut self, name: &str) -> Result<Reply, Box<dyn Error>> {
        let passed = &mut self.passed;
        let uplink = self.plan.devices.get(name).and_then(|device| device.uplink.as_ref());
        let tap = match uplink.ok_or_else(|| format!("device '{name}' has no uplink to open"))? {
            UplinkPlan::Tap(request) => {
                // A device has one interface, though the kernel chooses its name.
                let known = self.interfaces.get(name).filter(|known| {
                    // Unless that has become another device's meanwhile.
                    let of_others =
                        self.interfaces.iter().any(|(other, interface)| other != name && interface == *known);
                    is_named_by(known, &request.name) && !of_others
                });
                tap::open_tap(&TapRequest { name: known.unwrap_or(&request.name).clone(), ..request.clone() })?
            }
            UplinkPlan::TapFd(fds) => tap::adopt_tap(fds, |fd| passed.remove(&fd))?,
            UplinkPlan::Macvtap { name, queues } => macvtap::open_macvtap(name, *queues)?,
            UplinkPlan::Xdp(request) => {
                self.interfaces.remove(name);
                return Ok(xdp_reply(xdp::open_xdp_with(request, |fd| passed.remove(&fd))?));
            }
        };
        self.interfaces.insert(name.to_owned(), tap.name.clone());
        let OpenedTap { name, queues, multi_queue, existed, uso, guest_mac } = tap;
        Ok((Answer::Tap { name, multi_queue, existed, uso, guest_mac }, queues))
    }
}

/// Whether the kernel may have made a name of a pattern.
fn is_named_by(name: &str, pattern: &str) -> bool {
    let number = pattern.split_once("%d").and_then(|(before, after)| name.strip_prefix(before)?.strip_suffix(after));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// A file with this text that lies nowhere.
fn in_memory(text: &str) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create(c"configuration", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn xdp_reply(opened: OpenedXdp) -> Reply {
    let OpenedXdp { interface, mtu, sockets, busy_poll, program, packets } = opened;
    let terms = program.as_ref().map(|it| ProgramTerms { is_generic: it.is_generic, is_shared: it.is_shared });
    let answer = Answer::Xdp { interface, mtu, busy_poll, program: terms, packets: packets.is_some() };
    let mut fds = sockets;
    fds.extend(program.into_iter().flat_map(|program| [program.link, program.sockets, program.rules]));
    fds.extend(packets);
    (answer, fds)
}

/// An error with what caused it.
fn text_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
