//! Resolves a program on the host as a shell would, and builds its environment and its command.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use tokio::process::Command;

use super::{Assignment, Directories, StartError};
use crate::config::MARKER_VARIABLE;

/// Where a job finds its private directory, also if it runs in another one.
const SCRATCH_VARIABLE: &str = "GAFFER_SCRATCH_DIR";
/// The interpreter of scripts that name none.
const SHELL: &str = "/bin/sh";
/// The longest `#!` line that is read; the kernel's own limit is half of this.
const MAX_INTERPRETER_LINE: u64 = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// Absolute.
    pub path: PathBuf,
    /// How it finds itself called.
    pub name: String,
    pub arguments: Vec<String>,
}

impl Program {
    /// To be started with this environment and no other, as the leader of a process group, with captured output.
    /// Its path is absolute and, where cgroups allow it, nothing is to be done between fork and exec: only so is it started without
    /// copying the memory map of this process.
    pub fn command(&self, environment: &BTreeMap<String, String>) -> Command {
        let mut command = Command::new(&self.path);
        command
            .arg0(&self.name)
            .args(&self.arguments)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// Finds the program of a command, with the rights on files that this thread has. `directory` is where it will run, `path` its own PATH.
pub(super) fn find(command: &[String], directory: &Path, path: &str) -> Result<Program, StartError> {
    let Some((name, arguments)) = command.split_first() else {
        return Err(StartError::other("the command is empty"));
    };
    let found = if name.contains('/') {
        let candidate = directory.join(name);
        match look_at(&candidate) {
            Look::Executable => candidate,
            Look::NotExecutable => return Err(StartError::not_executable(name)),
            Look::Missing => {
                return Err(StartError::not_found(format!(
                    "command not found: {name} (looked in the task's directory, {})",
                    directory.display()
                )));
            }
        }
    } else {
        search(name, directory, path)?
    };
    Ok(Program { path: found, name: name.clone(), arguments: arguments.to_vec() })
}

/// What runs a script: the interpreter of its `#!` line, else a shell.
///
/// It is started as the kernel would, but by name: a file that was just written cannot always be executed at once,
/// because a process that another thread is starting may still hold it open.
pub(super) fn interpreter(script: &Path) -> Result<Program, StartError> {
    let line = first_line(script).map_err(|error| {
        StartError::other(format!("cannot read the script {}: {error}", script.display()))
    })?;
    let script = script.display().to_string();
    let Some(line) = line.strip_prefix("#!") else {
        return Ok(Program { path: SHELL.into(), name: SHELL.to_owned(), arguments: vec![script] });
    };
    let line = line.trim();
    let (interpreter, argument) = match line.split_once([' ', '\t']) {
        Some((interpreter, argument)) => (interpreter, Some(argument.trim().to_owned())),
        None => (line, None),
    };
    match look_at(Path::new(interpreter)) {
        Look::Executable if interpreter.starts_with('/') => {}
        Look::NotExecutable => return Err(StartError::not_executable(interpreter)),
        _ => {
            return Err(StartError::not_found(format!(
                "interpreter not found: {interpreter} (from the script's first line, #!{line})"
            )));
        }
    }
    let arguments = argument.into_iter().chain([script]).collect();
    Ok(Program { path: interpreter.into(), name: interpreter.to_owned(), arguments })
}

/// The directory that a job asks for, if it can run there with the rights of this thread.
pub(super) fn work_directory(path: &str) -> Result<&Path, StartError> {
    let refused = |why: &str| {
        let advice = "create it there, or select workers that have it with `constraints`";
        StartError::other(format!(
            "cannot run in the working directory {path}: {why} on this worker; {advice}"
        ))
    };
    let directory = Path::new(path);
    match fs::metadata(directory) {
        Ok(metadata) if !metadata.is_dir() => Err(refused("it is not a directory")),
        Ok(_) if !may_execute(directory) => Err(refused("the user of the job cannot enter it")),
        Ok(_) => Ok(directory),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(refused("it does not exist")),
        Err(error) => Err(refused(&format!("it cannot be read ({error})"))),
    }
}

/// The environment of an attempt: passed-on variables of the worker, then the job's, then gaffer's.
pub(super) fn environment(
    inherited: &BTreeMap<String, String>,
    assignment: &Assignment,
    directories: &Directories,
) -> BTreeMap<String, String> {
    let mut variables = inherited.clone();
    variables.insert("TMPDIR".to_owned(), directories.temporary.display().to_string());
    variables.extend(assignment.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
    variables.insert(SCRATCH_VARIABLE.to_owned(), directories.work.display().to_string());
    variables.insert(MARKER_VARIABLE.to_owned(), assignment.marker.clone());
    variables
}

enum Look {
    Executable,
    NotExecutable,
    Missing,
}

fn look_at(path: &Path) -> Look {
    match fs::metadata(path) {
        Err(_) => Look::Missing,
        Ok(metadata) if metadata.is_file() && may_execute(path) => Look::Executable,
        Ok(_) => Look::NotExecutable,
    }
}

/// Whether this thread may execute a file or enter a directory. The plain call would ask for the user that the process has been
/// started by.
fn may_execute(path: &Path) -> bool {
    match faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        // Not every container allows the question. Then the start answers it.
        Ok(()) | Err(Errno::ENOSYS | Errno::EPERM) => true,
        Err(_) => false,
    }
}

/// Goes through the directories of a PATH; an empty one is the current directory.
fn search(name: &str, directory: &Path, path: &str) -> Result<PathBuf, StartError> {
    let mut is_somewhere = false;
    for entry in path.split(':') {
        let candidate = directory.join(entry).join(name);
        match look_at(&candidate) {
            Look::Executable => return Ok(candidate),
            Look::NotExecutable => is_somewhere |= candidate.is_file(),
            Look::Missing => {}
        }
    }
    match is_somewhere {
        true => Err(StartError::not_executable(name)),
        false => Err(StartError::not_found(format!("command not found: {name} (looked in PATH {path})"))),
    }
}

fn first_line(path: &Path) -> io::Result<String> {
    let mut line = Vec::new();
    BufReader::new(fs::File::open(path)?.take(MAX_INTERPRETER_LINE)).read_until(b'\n', &mut line)?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn command(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn file(path: &Path, mode: u32, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn programs_are_found_in_the_path_of_the_job() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        file(&first.join("tool"), 0o644, "");
        file(&second.join("tool"), 0o755, "");
        let path = format!("{}:{}", first.display(), second.display());
        let found = find(&command(&["tool", "-x"]), dir.path(), &path).unwrap();
        assert_eq!(found.path, second.join("tool"), "what cannot be executed is passed over");
        assert_eq!((found.name.as_str(), found.arguments), ("tool", command(&["-x"])));

        let error = find(&command(&["nothing"]), dir.path(), &path).unwrap_err();
        assert_eq!(error.exit_code, 127);
        assert!(
            error.message.starts_with("command not found: nothing (looked in PATH "),
            "{}",
            error.message
        );
        let only_first = first.display().to_string();
        assert_eq!(find(&command(&["tool"]), dir.path(), &only_first).unwrap_err().exit_code, 126);
    }

    #[test]
    fn a_path_is_relative_to_the_directory_of_the_job() {
        let dir = tempfile::tempdir().unwrap();
        file(&dir.path().join("bin/run"), 0o755, "");
        file(&dir.path().join("data"), 0o644, "");
        assert_eq!(find(&command(&["bin/run"]), dir.path(), "").unwrap().path, dir.path().join("bin/run"));
        assert_eq!(find(&command(&["./data"]), dir.path(), "").unwrap_err().exit_code, 126);
        assert_eq!(find(&command(&["./bin"]), dir.path(), "").unwrap_err().exit_code, 126, "a directory");
        assert_eq!(find(&command(&["./none"]), dir.path(), "").unwrap_err().exit_code, 127);
        assert_eq!(find(&command(&["/bin/sh"]), dir.path(), "").unwrap().path, Path::new("/bin/sh"));
    }

    #[test]
    fn scripts_are_run_by_what_their_first_line_names() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        let this = script.display().to_string();
        let run = |text: &str| {
            file(&script, 0o700, text);
            interpreter(&script).map(|program| (program.path, program.arguments))
        };
        assert_eq!(run("echo hi\n").unwrap(), (SHELL.into(), vec![this.clone()]));
        assert_eq!(run("").unwrap(), (SHELL.into(), vec![this.clone()]));
        assert_eq!(run("#!/bin/sh\n").unwrap(), ("/bin/sh".into(), vec![this.clone()]));
        let env = run("#! /usr/bin/env  sh -e \nexit").unwrap();
        assert_eq!(env, ("/usr/bin/env".into(), vec!["sh -e".to_owned(), this]));
        assert_eq!(run("#!/no/such/interpreter").unwrap_err().exit_code, 127);
        assert_eq!(run("#!sh").unwrap_err().exit_code, 127, "only absolute ones, as for the kernel");
        assert_eq!(run("#!/etc").unwrap_err().exit_code, 126);
    }
}
