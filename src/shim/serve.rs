//! The shim that stays: one process for the containers of a pod, one thread, in place of containerd's own, a Go program of 4.5 MB a pod where
//! this takes half of one (`make bench`).
//!
//! ```text
//!  containerd ── ttrpc ──> converse ──> answer ──> Container ──> OCI runtime
//!             <── events ── Events <── exits <── Children <── SIGCHLD
//! ```
//! It answers `containerd.task.v3.Task` in containerd's own shim's words, for plinth reads them. Not here: checkpoints, metrics (plinth
//! reads cgroups itself), OOM events (plinth looks at the cgroup before the task is deleted), outputs that are no FIFOs.
//!
//! Unlike it: a create that hangs is in nobody else's way, events wait for containerd as long as it takes, output goes into the FIFO
//! without a copy, and a shim nobody ever gave a container to ends. And since nothing is copied, what the OCI runtime itself says on its
//! standard error when it cannot start something (runc does, crun does not) stands in the container's output, too.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use containerd_client::events;
use containerd_client::types::v1::ProcessInfo;
use nix::sys::signal::Signal;
use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::Call;
use super::api::{
    Code, ConnectResponse, CreateTaskRequest, Deleted, ExecProcessRequest, KillRequest, Named, PidsResponse, ResizePtyRequest, Started,
    StateResponse, TASK, UpdateTaskRequest, WaitResponse,
};
use super::container::{Container, Process, State};
use super::publish::Events;
use super::reap::{Children, Exit};
use super::stdio::Paths;
use super::ttrpc::{self, Answer, Kind, Request, Response, Status};
use crate::sys::signal::Signals;
use crate::sys::{memory, spawn};

/// The descriptor its socket comes as.
pub(super) const LISTENER: i32 = 3;
/// Events still to be told at the end are waited for so long.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// So long a shim without a container waits for somebody to give it one.
const UNUSED: Duration = Duration::from_secs(60);
/// Answers that wait to be sent on one connection.
const ANSWERS: usize = 16;
const KILL: u32 = 9;
/// What a container without a PID namespace of its own leaves is killed within that, or its end is told all the same.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// Serves until containerd says that it was the last container.
pub(super) fn serve(call: &Call) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed("start", &e),
    };
    match LocalSet::new().block_on(&runtime, stay(call)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failed("serve", &e),
    }
}

fn failed(what: &str, e: &io::Error) -> ExitCode {
    eprintln!("plinth: {what} as a shim: {e}");
    ExitCode::FAILURE
}

async fn stay(call: &Call) -> io::Result<()> {
    let listener = StdListener::from(spawn::handed_over(LISTENER)?);
    listener.set_nonblocking(true)?;
    let socket = listener.local_addr()?.as_pathname().and_then(|p| Some((p.to_owned(), inode(p)?)));
    let listener = UnixListener::from_std(listener)?;
    let signals = Signals::new(&[Signal::SIGCHLD])?;
    // What the OCI runtime starts and leaves is this process's own child then.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // Beside the bundles, where plinth looks for those of its containers, and in the way of no bundle's removal.
    std::env::set_current_dir("..")?;
    let shim = Rc::new(Shim { namespace: call.namespace.clone(), ..Shim::default() });
    let address = std::env::var("TTRPC_ADDRESS").unwrap_or_else(|_| format!("{}.ttrpc", call.address));
    let telling = Rc::clone(&shim);
    spawn_local(async move { telling.events.tell(&address).await });
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(spawn_local(converse(Rc::clone(&shim), stream))),
                // Out of descriptors: whoever is connected stays so.
                Err(_) => sleep(Duration::from_millis(100)).await,
            },
            signal = signals.next() => {
                signal?;
                shim.children.reap(|pid, exit| shim.ended(pid, exit));
            }
            () = shim.over.notified() => {
                if shim.is_empty() {
                    break;
                }
            }
            () = shim.left.notified() => {}
            () = sleep(UNUSED), if shim.is_unused() => {
                if shim.is_unused() {
                    break;
                }
            }
        }
    }
    shim.leaving.set(true);
    // Who comes now is to find no shim, and start another.
    if let Some((path, own)) = socket
        && inode(&path) == Some(own)
    {
        let _ = std::fs::remove_file(path);
    }
    let _ = timeout(TOLD_WITHIN, shim.events.told()).await;
    Ok(())
}

/// Which file it is.
fn inode(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|m| (m.dev(), m.ino()))
}

/// Requests of one connection, each answered when it is done.
async fn converse(shim: Rc<Shim>, stream: UnixStream) {
    let (mut from, mut to) = stream.into_split();
    let (answers, mut answered) = mpsc::channel::<(u32, Response)>(ANSWERS);
    shim.connections.set(shim.connections.get() + 1);
    let reading = async {
        while let Ok(Some(frame)) = ttrpc::read(&mut from).await {
            let Ok(request) = Request::decode(frame.payload.as_slice()) else { break };
            if frame.kind == Kind::Request {
                let (shim, answers) = (Rc::clone(&shim), answers.clone());
                spawn_local(async move {
                    let answer = tokio::select! {
                        biased;
                        answer = shim.answer(&request) => answer,
                        // What was begun is ended; only who waits can go.
                        () = answers.closed(), if request.method == "Wait" => return,
                    };
                    let _ = answers.send((frame.stream, answer.into())).await;
                });
            }
        }
    };
    let writing = async {
        while let Some((stream, response)) = answered.recv().await {
            if ttrpc::write(&mut to, stream, Kind::Response, &response).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
    shim.connections.set(shim.connections.get().saturating_sub(1));
    shim.left.notify_one();
}

/// The containers of a pod.
#[derive(Default)]
struct Shim {
    namespace: String,
    containers: RefCell<BTreeMap<String, Rc<Container>>>,
    /// Being created, so not among them yet.
    creating: RefCell<BTreeSet<String>>,
    /// Whose process each pid is: a container's id, and a command's name, empty for the container's own.
    owners: RefCell<BTreeMap<u32, (String, String)>>,
    children: Children,
    events: Events,
    /// Of those being created: nobody wants them any more.
    unwanted: RefCell<BTreeSet<String>>,
    connections: Cell<usize>,
    /// A connection or a container ended.
    left: Notify,
    /// It is over: nothing is begun any more.
    leaving: Cell<bool>,
    over: Notify,
}

fn read<M: Message + Default>(request: &Request) -> Result<M, Status> {
    M::decode(request.payload.as_slice()).map_err(|e| Code::InvalidArgument.says(format!("read {}: {e}", request.method)))
}

impl Shim {
    async fn answer(self: &Rc<Shim>, request: &Request) -> Answer {
        let within = request.timeout();
        if request.service != TASK {
            return Err(Code::Unimplemented.says(format!("service {}", request.service)));
        }
        match request.method.as_str() {
            "Create" => self.create(read(request)?, within).await.map(|pid| Started { pid }.encode_to_vec()),
            "Start" => self.start(read(request)?, within).await.map(|pid| Started { pid }.encode_to_vec()),
            "Delete" => self.delete(read(request)?, within).await.map(|d| d.encode_to_vec()),
            "Wait" => self.wait(read(request)?).await.map(|w| w.encode_to_vec()),
            "State" => self.state(read(request)?).map(|s| s.encode_to_vec()),
            "Connect" => self.connect(&read(request)?).map(|c| c.encode_to_vec()),
            "Exec" => nothing(self.exec(read(request)?)),
            "Kill" => nothing(self.kill(read(request)?, within).await),
            "ResizePty" => nothing(self.resize(read(request)?)),
            "CloseIO" => nothing(self.close_input(read(request)?)),
            "Pause" => nothing(self.pause(read(request)?, within).await),
            "Resume" => nothing(self.resume(read(request)?, within).await),
            "Update" => nothing(self.update(read(request)?, within).await),
            "Pids" => self.pids(read(request)?, within).await.map(|p| p.encode_to_vec()),
            "Shutdown" => {
                if self.is_empty() {
                    self.over.notify_one();
                }
                Ok(Vec::new())
            }
            other => Err(Code::Unimplemented.says(format!("{other}: plinth's shim does not; containerd's own does"))),
        }
    }

    fn container(&self, id: &str) -> Result<Rc<Container>, Status> {
        self.containers.borrow().get(id).cloned().ok_or_else(|| Code::NotFound.says("container not created"))
    }

    /// The container's own process where no command is named.
    fn process(&self, named: &Named) -> Result<(Rc<Container>, Rc<Process>), Status> {
        let container = self.container(&named.id)?;
        let process = match named.exec_id.as_str() {
            "" => Some(Rc::clone(&container.init)),
            name => container.commands.borrow().get(name).cloned(),
        };
        let process = process.ok_or_else(|| Code::NotFound.says(format!("process does not exist {}", named.exec_id)))?;
        Ok((container, process))
    }

    fn is_empty(&self) -> bool {
        self.containers.borrow().is_empty() && self.creating.borrow().is_empty()
    }

    fn is_unused(&self) -> bool {
        self.connections.get() == 0 && self.is_empty()
    }

    async fn create(self: &Rc<Shim>, request: CreateTaskRequest, within: Option<Duration>) -> Result<u32, Status> {
        if self.leaving.get() {
            return Err(Code::Unknown.says("create a container: this shim is about to end"));
        }
        // containerd asks for one that it does not know: what has ended of it was given up.
        self.containers.borrow_mut().retain(|id, c| *id != request.id || c.init.state.get() != State::Stopped);
        if self.containers.borrow().contains_key(&request.id) || !self.creating.borrow_mut().insert(request.id.clone()) {
            // In the words of the OCI runtime, which containerd's own shim lets find out.
            return Err(Code::Unknown.says(format!("OCI runtime create failed: container `{}` already exists", request.id)));
        }
        let starting = self.children.starting();
        let created = Container::create(&request, &self.namespace, &self.children, within).await;
        let unwanted = self.unwanted.borrow_mut().remove(&request.id);
        let given_up = match &created {
            Ok(container) if unwanted => container.delete(&self.children, Some(KILLED_WITHIN)).await.is_ok(),
            _ => false,
        };
        self.creating.borrow_mut().remove(&request.id);
        self.left.notify_one();
        if given_up {
            return Err(Code::Unknown.says(format!("create container {}: it was given up meanwhile", request.id)));
        }
        let container = Rc::new(created?);
        let pid = container.init.pid.get();
        self.containers.borrow_mut().insert(request.id.clone(), Rc::clone(&container));
        let CreateTaskRequest { id, bundle, rootfs, stdin, stdout, stderr, terminal, .. } = request;
        let io = Some(events::TaskIo { stdin, stdout, stderr, terminal });
        self.tell("create", &events::TaskCreate { container_id: id.clone(), bundle, rootfs, io, checkpoint: String::new(), pid });
        self.own(pid, &id, "", starting.end_of(pid));
        Ok(pid)
    }

    async fn start(self: &Rc<Shim>, named: Named, within: Option<Duration>) -> Result<u32, Status> {
        let (container, process) = self.process(&named)?;
        let Named { id, exec_id } = named;
        // An end before the start was told is told after it.
        let starting = self.children.starting();
        let started = if exec_id.is_empty() {
            self.owners.borrow_mut().remove(&process.pid.get());
            container.start(&self.children, within).await
        } else {
            container.run(&exec_id, &process, &self.children, within).await
        };
        let pid = process.pid.get();
        match &started {
            Ok(()) if exec_id.is_empty() => self.tell("start", &events::TaskStart { container_id: id.clone(), pid }),
            Ok(()) => {
                self.tell("exec-started", &events::TaskExecStarted { container_id: id.clone(), exec_id: exec_id.clone(), pid });
            }
            Err(_) => {}
        }
        // One whose end was told, or is about to be, has its pid no more.
        let is_over = process.state.get() == State::Stopped || exec_id.is_empty() && container.last.get().is_some();
        if pid != 0 && !is_over && self.has(&container) {
            self.own(pid, &id, &exec_id, starting.end_of(pid));
        }
        if container.outlived && container.last.get().is_some() {
            // It may have come into being after the others were killed.
            self.end_rest(&container);
        }
        self.end_if_last(&container);
        started.map(|()| pid)
    }

    /// From now on that pid's end is this process's; or it has ended by now.
    fn own(self: &Rc<Shim>, pid: u32, id: &str, command: &str, ended: Option<Exit>) {
        self.owners.borrow_mut().insert(pid, (id.to_owned(), command.to_owned()));
        if let Some(exit) = ended {
            self.ended(pid, exit);
        }
    }

    /// A process has ended: whether it is one of a container.
    fn ended(self: &Rc<Shim>, pid: u32, exit: Exit) -> bool {
        let Some((id, command)) = self.owners.borrow_mut().remove(&pid) else { return false };
        let Ok((container, process)) = self.process(&Named { id, exec_id: command.clone() }) else { return true };
        if process.pid.get() != pid {
            return true;
        }
        if command.is_empty() {
            container.last.set(Some(exit));
            if container.outlived {
                self.end_rest(&container);
            }
        } else {
            process.end(exit);
            self.tell_exit(&container, &command, &process, exit);
        }
        self.end_if_last(&container);
        true
    }

    /// Kills what a container's own process left.
    fn end_rest(self: &Rc<Shim>, container: &Rc<Container>) {
        if !container.killing.replace(true) {
            let (shim, container) = (Rc::clone(self), Rc::clone(container));
            spawn_local(async move {
                let _ = container.signal_all(KILL, &shim.children, Some(KILLED_WITHIN)).await;
                container.killing.set(false);
                shim.end_if_last(&container);
            });
        }
    }

    /// Whether it is one of those there are, and not one of before.
    fn has(&self, container: &Container) -> bool {
        self.containers.borrow().get(&container.id).is_some_and(|c| std::ptr::eq(&**c, container))
    }

    /// A container ends after all its commands did.
    fn end_if_last(&self, container: &Container) {
        let Some(exit) = container.last.get() else { return };
        let is_last = !container.killing.get() && !container.commands.borrow().values().any(|p| p.runs());
        if is_last && container.init.state.get() != State::Stopped && self.has(container) {
            container.init.end(exit);
            self.tell_exit(container, &container.id, &container.init, exit);
        }
    }

    fn tell_exit(&self, container: &Container, name: &str, process: &Process, exit: Exit) {
        let exit = events::TaskExit {
            container_id: container.id.clone(),
            id: name.to_owned(),
            pid: process.pid.get(),
            exit_status: exit.code,
            exited_at: Some(exit.at.into()),
        };
        self.tell("exit", &exit);
    }

    fn tell<E: Message + prost::Name>(&self, what: &str, event: &E) {
        self.events.publish(&self.namespace, &format!("/tasks/{what}"), event);
    }

    async fn delete(&self, named: Named, within: Option<Duration>) -> Result<Deleted, Status> {
        if named.exec_id.is_empty() && self.creating.borrow().contains(&named.id) {
            // It is not there yet, and is not wanted any more once it is.
            self.unwanted.borrow_mut().insert(named.id.clone());
        }
        let (container, process) = self.process(&named)?;
        if named.exec_id.is_empty() {
            container.delete(&self.children, within).await?;
            self.containers.borrow_mut().remove(&named.id);
            self.left.notify_one();
        } else {
            container.remove(&named.exec_id, &process).await?;
            self.end_if_last(&container);
        }
        let (pid, (exit_status, exited_at)) = (process.pid.get(), process.told());
        // One that never ran is killed, and nobody is left to say so to who waits for it.
        process.exit.send_if_modified(|exit| exit.is_none() && exit.insert(Exit { code: 128 + KILL, at: SystemTime::now() }).code > 0);
        if named.exec_id.is_empty() {
            let id = String::new();
            self.tell("delete", &events::TaskDelete { container_id: named.id, pid, exit_status, exited_at, id });
            // What its life took is not needed to wait for the next.
            let _ = memory::give_back();
        }
        Ok(Deleted { pid, exit_status, exited_at })
    }

    fn exec(&self, request: ExecProcessRequest) -> Result<(), Status> {
        let container = self.container(&request.id)?;
        let ExecProcessRequest { id, exec_id, terminal, stdin, stdout, stderr, spec } = request;
        container.add(&exec_id, Paths { stdin, stdout, stderr, terminal }, &spec.unwrap_or_default().value)?;
        self.tell("exec-added", &events::TaskExecAdded { container_id: id, exec_id });
        Ok(())
    }

    async fn wait(&self, named: Named) -> Result<WaitResponse, Status> {
        let (_, process) = self.process(&named)?;
        // The sender is the process's own, which is held here.
        let _ = process.exit.subscribe().wait_for(Option::is_some).await;
        let (exit_status, exited_at) = process.told();
        Ok(WaitResponse { exit_status, exited_at })
    }

    fn state(&self, named: Named) -> Result<StateResponse, Status> {
        let (container, process) = self.process(&named)?;
        let state = match container.init.state.get() {
            paused @ (State::Paused | State::Pausing) => paused,
            _ => process.state.get(),
        };
        let Paths { stdin, stdout, stderr, terminal } = process.paths.clone();
        let (exit_status, exited_at) = process.told();
        let id = if named.exec_id.is_empty() { named.id } else { named.exec_id.clone() };
        let (bundle, pid) = (container.bundle().to_owned(), process.pid.get());
        let (status, exec_id) = (state.number(), named.exec_id);
        Ok(StateResponse { id, bundle, pid, status, stdin, stdout, stderr, terminal, exit_status, exited_at, exec_id })
    }

    fn connect(&self, named: &Named) -> Result<ConnectResponse, Status> {
        let task_pid = self.container(&named.id).map_or(0, |c| c.init.pid.get());
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid })
    }

    async fn kill(&self, request: KillRequest, within: Option<Duration>) -> Result<(), Status> {
        let KillRequest { id, exec_id, signal, all } = request;
        let (container, process) = self.process(&Named { id, exec_id })?;
        let is_init = Rc::ptr_eq(&process, &container.init);
        if all && is_init {
            return container.signal_all(signal, &self.children, within).await;
        }
        if is_init && (container.last.get().is_some() || process.state.get() == State::Stopped) {
            // Its pid may be another's by now.
            return Err(Code::NotFound.says("process already finished"));
        }
        process.signal(signal)
    }

    fn resize(&self, request: ResizePtyRequest) -> Result<(), Status> {
        let (_, process) = self.process(&Named { id: request.id, exec_id: request.exec_id })?;
        let held = process.held.borrow();
        let resized = held.as_ref().map_or(Ok(()), |held| held.resize(request.width, request.height));
        resized.map_err(|e| Code::Unknown.says(format!("resize the terminal: {e}")))
    }

    fn close_input(&self, named: Named) -> Result<(), Status> {
        // Its third field says which of the three, and there is only one that can be closed.
        self.process(&named)?.1.close_input();
        Ok(())
    }

    async fn pause(&self, named: Named, within: Option<Duration>) -> Result<(), Status> {
        self.container(&named.id)?.pause(&self.children, within).await?;
        self.tell("paused", &events::TaskPaused { container_id: named.id });
        Ok(())
    }

    async fn resume(&self, named: Named, within: Option<Duration>) -> Result<(), Status> {
        self.container(&named.id)?.resume(&self.children, within).await?;
        self.tell("resumed", &events::TaskResumed { container_id: named.id });
        Ok(())
    }

    async fn update(&self, request: UpdateTaskRequest, within: Option<Duration>) -> Result<(), Status> {
        self.container(&request.id)?.update(&request.resources.unwrap_or_default().value, &self.children, within).await
    }

    async fn pids(&self, named: Named, within: Option<Duration>) -> Result<PidsResponse, Status> {
        let pids = self.container(&named.id)?.pids(&self.children, within).await?;
        Ok(PidsResponse { processes: pids.into_iter().map(|pid| ProcessInfo { pid, info: None }).collect() })
    }
}

/// `google.protobuf.Empty`.
fn nothing(done: Result<(), Status>) -> Answer {
    done.map(|()| Vec::new())
}
