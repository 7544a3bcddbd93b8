//! The VM process of one sandbox: `ringfence-vmm`, started by a launcher with a
//! [`vmm_api::Channel`] as descriptor 3, or by a person with `--check-kvm [PATH]` or `--check-jail`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vmm::control::{self, End, Jail};
use vmm::jail::{self, fds};
use vmm::machine::with_causes;
use vmm::{host_check, process, timeline};
use vmm_api::{CHANNEL_FD, WallsReport};

fn main() -> ExitCode {
    let start_ns = timeline::now_ns();
    process::end_on_panic();
    process::use_one_heap();
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (None, ..) => serve(Jail::Full, start_ns),
        (Some(option), None, _) if option == "--no-jail" => serve(Jail::None, start_ns),
        (Some(option), path, None) if option == "--check-kvm" => check_kvm(path),
        (Some(option), None, _) if option == "--check-jail" => check_jail(),
        _ => {
            eprintln!(
                "usage: ringfence-vmm --check-kvm [PATH] | --check-jail\n\
                 Otherwise ringfence starts it: ringfence-vmm [--no-jail], with its channel as \
                 descriptor {CHANNEL_FD}."
            );
            ExitCode::FAILURE
        }
    }
}

fn check_kvm(path: Option<OsString>) -> ExitCode {
    let path = path.map_or_else(|| Path::new("/dev/kvm").to_owned(), PathBuf::from);
    match host_check::check(&path) {
        Ok(turns) => {
            println!("kvm: ok, guest kernels run at {turns} turns of a loop per second");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ringfence-vmm: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// Says so behind the walls.
fn check_jail() -> ExitCode {
    match jail::try_walls() {
        Ok(WallsReport { landlock, down: _ }) => {
            let landlock = match landlock {
                Some(version) => format!("Landlock {version}"),
                None => "no Landlock".to_owned(),
            };
            println!(
                "walls: ok, namespaces, an empty root, no capability over the host and system call \
                 filters can be had; {landlock}"
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ringfence-vmm: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// Does not return: nothing of a machine is worth an orderly end (see [`process::end`]).
fn serve(jail: Jail, start_ns: u64) -> ! {
    let end = match fds::close_others() {
        Ok(()) => control::serve(&process::channel(), jail, start_ns),
        Err(error) => {
            eprintln!("ringfence-vmm: inherited descriptors cannot be closed: {error}");
            End::NotBooted
        }
    };
    let code = match end {
        End::LauncherGone | End::GuestExited(_) => 0,
        End::NotBooted => 1,
        End::ChannelFailed(error) => {
            eprintln!(
                "ringfence-vmm: descriptor {CHANNEL_FD} is no channel to a launcher; ringfence \
                 starts this program: {}",
                with_causes(&error)
            );
            1
        }
    };
    process::end(code)
}
