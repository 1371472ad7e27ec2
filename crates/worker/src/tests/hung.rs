//! File systems that do not answer: what hangs in one holds up nobody else, and can be given up.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use gaffer_domain::quantity::Span;
use gaffer_domain::reason::{AttemptEnd, LostCause, ProcessEnd};
use gaffer_protocol::wire::{Ended, ToMaster, ToWorker};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use super::Worker;
use super::docker_daemon::skip;
use super::master::{Books, Order, Said, Session, attempt, command, script, until};

/// A directory on a file system whose server never answers.
struct HungDirectory {
    place: tempfile::TempDir,
    server: Option<File>,
}

impl HungDirectory {
    /// None where this process may not mount anything.
    fn mount() -> Option<HungDirectory> {
        let place = tempfile::tempdir().unwrap();
        let server = OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("hung"), place.path(), Some("fuse"), flags, Some(options.as_str())).ok()?;
        Some(HungDirectory { place, server: Some(server) })
    }

    fn path(&self) -> String {
        self.place.path().display().to_string()
    }
}

impl Drop for HungDirectory {
    fn drop(&mut self) {
        // Without a server everything fails at once.
        self.server = None;
        umount2(self.place.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

/// A program that the kernel does not get to load before this is dropped (or forty-five seconds have passed):
/// a process that opens it waits for the holder of a lease on it.
struct LeasedProgram {
    lease: File,
    path: PathBuf,
}

impl LeasedProgram {
    fn new(dir: &Path, text: &str) -> LeasedProgram {
        let path = dir.join("program");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let leased = LeasedProgram { lease: File::open(&path).unwrap(), path };
        assert_eq!(leased.control(libc::F_SETLEASE, libc::F_WRLCK), 0);
        // What tells that somebody waits is to be a signal that nobody minds.
        const F_SETSIG: i32 = 10;
        assert_eq!(leased.control(F_SETSIG, libc::SIGWINCH), 0);
        leased
    }

    /// Whether somebody waits.
    fn is_wanted(&self) -> bool {
        self.control(libc::F_GETLEASE, 0) != libc::F_WRLCK
    }

    #[allow(unsafe_code)]
    fn control(&self, command: i32, argument: i32) -> i32 {
        // SAFETY: the descriptor is open as long as `self` lives, and none of the commands above takes a pointer.
        unsafe { libc::fcntl(self.lease.as_raw_fd(), command, argument) }
    }
}

/// Living processes, on their way out or not, that work in a directory. Those that are being ended do not count.
fn processes_in(dir: &Path) -> Vec<String> {
    const BEING_ENDED: u64 = 0x4;
    let works_there =
        |entry: &fs::DirEntry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
    let processes = fs::read_dir("/proc").unwrap().flatten().filter(works_there);
    let lives = |entry: &fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let flags = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
        flags.is_some_and(|flags| flags & BEING_ENDED == 0)
    };
    processes.filter(lives).map(|entry| entry.path().display().to_string()).collect()
}

/// Starts another attempt and follows it to its end, while heartbeats are answered.
async fn another_runs(session: &mut Session, books: &mut Books, task: i64) {
    session.start([script(task, "echo out; exit 3")]).await;
    while !books.ended.contains_key(&attempt(task)) {
        session.keep(books).await;
    }
    assert_eq!(books.ended[&attempt(task)].end, AttemptEnd::Exited { code: 3 });
    assert_eq!(books.stdout(attempt(task)), "out\n");
}

/// The next end, with what was noted before it.
async fn end_with_notes(session: &mut Session) -> (Ended, Vec<String>) {
    let mut notes = Vec::new();
    loop {
        match session.report().await {
            ToMaster::Noted { message, .. } => notes.push(message),
            ToMaster::Ended(ended) => return (*ended, notes),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_loaded_holds_up_nobody_and_once_given_up_never_executes() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let place = tempfile::tempdir().unwrap();
    let ran = place.path().join("ran");
    let program = LeasedProgram::new(place.path(), &format!("#!/bin/sh\necho x > {}\n", ran.display()));
    session.start([command(1, &[program.path.to_str().unwrap()])]).await;
    until("the kernel to wait for the program", || program.is_wanted()).await;
    another_runs(&mut session, &mut Books::default(), 2).await;

    session.send(&[ToWorker::Stop { attempt: attempt(1) }]).await;
    let (ended, notes) = end_with_notes(&mut session).await;
    assert_eq!(processes_in(worker.dir.path()), [] as [&str; 0], "an end was told before it was true");
    assert_eq!((ended.attempt, ended.end), (attempt(1), AttemptEnd::Stopped { process: None }));
    let why = format!("not started: the kernel has not loaded {} yet", program.path.display());
    assert_eq!(notes, [why]);
    drop(program);
    another_runs(&mut session, &mut Books::default(), 3).await;
    assert!(!ran.exists());
    worker.stop().await;
}

#[tokio::test]
async fn a_working_directory_that_hangs_holds_up_nobody_and_can_be_given_up() {
    let Some(hung) = HungDirectory::mount() else {
        return skip("a_working_directory_that_hangs", "this process may not mount anything");
    };
    let (worker, mut session) = Worker::start_and_welcome().await;
    let in_it = |task| Order { workdir: Some(hung.path()), ..command(task, &["true"]) };
    let limit = Span::from_millis(300);
    let why = format!("not started: the working directory {} does not respond", hung.path());

    session.start([in_it(1)]).await;
    another_runs(&mut session, &mut Books::default(), 2).await;
    session.send(&[ToWorker::Stop { attempt: attempt(1) }]).await;
    let (ended, notes) = end_with_notes(&mut session).await;
    assert_eq!((ended.attempt, ended.end), (attempt(1), AttemptEnd::Stopped { process: None }));
    assert_eq!(notes, std::slice::from_ref(&why));

    // There is no process that its timeout could end.
    session.start([Order { timeout: Some(limit), ..in_it(3) }]).await;
    let (ended, _) = end_with_notes(&mut session).await;
    assert_eq!(ended.end, AttemptEnd::StartFailed { exit_code: 125, message: why });
    another_runs(&mut session, &mut Books::default(), 4).await;
    drop(hung);
    worker.stop().await;
}

#[tokio::test]
async fn a_file_of_the_spool_that_hangs_holds_up_no_other_and_no_end() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    // To open it waits for a reader.
    let file = worker.dir.path().join("spool/1.1.0");
    nix::unistd::mkfifo(&file, Mode::from_bits_truncate(0o600)).unwrap();
    // What a shell says of a child that a signal ended is none of it.
    let text =
        "exec 2> /dev/null; echo hello; trap 'echo bye; exit 5' TERM; : > up; while :; do sleep 0.01; done";
    session.start([script(1, text)]).await;
    let up = worker.dir.path().join("attempts/1.1/work/up");
    until("the job to be up", || up.exists()).await;
    let mut books = Books::default();
    another_runs(&mut session, &mut books, 2).await;
    assert!(!books.output.contains_key(&attempt(1)), "nobody sees what is not on disk");

    session.send(&[ToWorker::Stop { attempt: attempt(1) }]).await;
    while !books.ended.contains_key(&attempt(1)) {
        session.keep(&mut books).await;
    }
    let ended = &books.ended[&attempt(1)];
    assert_eq!(ended.end, AttemptEnd::Stopped { process: Some(ProcessEnd::Code(5)) });
    assert_eq!((books.stdout(attempt(1)).as_str(), ended.output_bytes), ("hello\nbye\n", 10));
    let _reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&file).unwrap();
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_goes_down_although_a_start_hangs() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let place = tempfile::tempdir().unwrap();
    let program = LeasedProgram::new(place.path(), "#!/bin/sh\n");
    session.start([command(1, &[program.path.to_str().unwrap()])]).await;
    until("the kernel to wait for the program", || program.is_wanted()).await;
    let mut books = Books::default();
    let follow = async {
        loop {
            let said = session.next().await;
            if said == Said::Nothing {
                break;
            }
            let answers = books.take(said);
            session.send(&answers).await;
        }
    };
    tokio::join!(worker.stop(), follow);
    let end = &books.ended[&attempt(1)].end;
    assert_eq!(*end, AttemptEnd::Lost { cause: LostCause::WorkerShutDown });
}
