use super::*;
use crate::error::Status;
use std::io::Write;
use std::process::{Command, Stdio};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn text(text: &str) -> impl FnOnce(&mut File) -> Result<()> {
    move |f| f.write_all(text.as_bytes()).map_err(|e| Error::io("", "", &e))
}

#[test]
fn old_or_new_and_nothing_beside() {
    for nameless in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let replace = |path: &Path, write: &dyn Fn(&mut File) -> Result<()>| replace_with(path, nameless, write);
        replace(&path, &|f| text("first")(f)).unwrap();
        replace(&path, &|f| text("second")(f)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        let fails = replace(&path, &|f| text("half")(f).and(Err(Error::format("no"))));
        assert_eq!(fails.unwrap_err().status, Status::Format);
        let panics = std::panic::catch_unwind(|| replace_with(&path, nameless, |_| panic!("in the middle")));
        assert!(panics.is_err());
        assert_eq!(names(folder.path()), ["state"]);
        let nowhere = replace(&folder.path().join("no/such"), &|_| Ok(())).unwrap_err();
        assert_eq!((nowhere.status, nowhere.os_code != 0), (Status::Io, true));
        assert_eq!(replace(Path::new(".."), &|_| Ok(())).unwrap_err().status, Status::Argument);
        // The longest name there may be.
        let long = folder.path().join("n".repeat(255));
        replace(&long, &|f| text("first")(f)).unwrap();
        replace(&long, &|f| text("second")(f)).unwrap();
        assert_eq!(names(folder.path()).len(), 2);
    }
}

#[test]
fn temporary_files_that_nobody_holds_are_removed_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let held = File::create(at(".state.4711-0.tmp")).unwrap();
    held.lock().unwrap();
    let others = [".state.4711-x.tmp", ".state.tmp", ".state2.4711-0.tmp", "state.4711-0.tmp"];
    for name in others.into_iter().chain([".state.4711-1.tmp"]) {
        fs::write(at(name), "").unwrap();
    }
    let own = format!(".state.{}-0.tmp", std::process::id());
    fs::write(at(&own), "").unwrap();
    for nameless in [true, false] {
        replace_with(&at("state"), nameless, text("new")).unwrap();
        replace_with(&at("state"), nameless, text("newer")).unwrap();
    }
    let mut expected: Vec<&str> = others.into_iter().chain([".state.4711-0.tmp", "state"]).collect();
    expected.sort();
    assert_eq!(names(folder.path()), expected);
    drop(held);
    replace(&at("state"), text("newest")).unwrap();
    assert_eq!(names(folder.path()).len(), others.len() + 1);
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_replaced_and_links_stay_links() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o7777;
    fs::create_dir(at("folder")).unwrap();
    let pipe = std::ffi::CString::new(at("pipe").to_str().unwrap()).unwrap();
    // SAFETY: a NUL-terminated path.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    symlink("/dev/null", at("null")).unwrap();
    symlink("pipe", at("to-pipe")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("circle", at("circle")).unwrap();
    for name in ["folder", "pipe", "socket", "null", "to-pipe", "dangling", "circle", "/dev/null", "/dev/full"] {
        for nameless in [true, false] {
            let refused = replace_with(&at(name), nameless, |_| panic!("nothing is written")).unwrap_err();
            assert_eq!(refused.status, Status::Io, "{name}: {refused}");
        }
    }
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert!(fs::symlink_metadata(at("dangling")).unwrap().is_symlink() && !at("nowhere").exists());
    // One that becomes a folder while it is written.
    let path = at("turns");
    let turned = replace(&path, |_| {
        fs::create_dir(&path).unwrap();
        Ok(())
    });
    assert_eq!(turned.unwrap_err().status, Status::Io);

    for nameless in [true, false] {
        let new = if nameless { "new" } else { "other" };
        replace_with(&at(new), nameless, text("x")).unwrap();
        assert_eq!(mode(new), 0o600);
        for kept in [0o644, 0o600, 0o640, 0o400] {
            fs::set_permissions(at(new), fs::Permissions::from_mode(kept)).unwrap();
            replace_with(&at(new), nameless, text("y")).unwrap();
            assert_eq!(mode(new), kept);
        }
        let link = format!("link-to-{new}");
        fs::create_dir_all(at("elsewhere")).unwrap();
        fs::write(at("elsewhere/real"), "old").unwrap();
        symlink("elsewhere/real", at(&link)).unwrap();
        replace_with(&at(&link), nameless, text("through")).unwrap();
        assert!(fs::symlink_metadata(at(&link)).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(at("elsewhere/real")).unwrap(), "through");
        assert_eq!(names(&at("elsewhere")), ["real"]);
    }
}

const KILLED: &str = "ASTRAI_TEST_REPLACE";

/// Not a test of its own: what the next one runs in another process, and kills in the middle.
#[test]
fn replaced_by_a_child() {
    let Ok(path) = std::env::var(KILLED) else { return };
    let nameless = path.ends_with("nameless");
    let _ = replace_with(Path::new(&path), nameless, |file| {
        text("half of the new cont")(file)?;
        fs::write(format!("{path}.ready"), "").unwrap();
        loop {
            std::thread::park();
        }
    });
}

#[test]
fn a_writer_that_is_killed_leaves_the_old_file_and_nothing_that_stays() {
    for nameless in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let name = if nameless { "nameless" } else { "named" };
        let path = folder.path().join(name);
        let ready = folder.path().join(format!("{name}.ready"));
        fs::write(&path, "old").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "os::files::tests::replaced_by_a_child", "--nocapture"])
            .env(KILLED, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !ready.exists() {
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_file(&ready).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        if nameless && platform::unnamed(folder.path()).is_some() {
            assert_eq!(names(folder.path()), [name]);
        }
        replace(&path, text("new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(folder.path()), [name]);
    }
}
