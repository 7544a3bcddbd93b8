//! Pods through containerd's CRI plugin, as a kubelet asks for them, beside runc where both do the same.

mod daemon;
mod grpc;
mod killed;
mod many;
mod messages;
mod pod;
mod restarts;
mod streaming;
mod streams;
mod tour;

use daemon::Containerd;

const RINGFENCE: &str = "ringfence";
const RUNC: &str = "runc";
/// ringfence without a first container, which only containerd 2 knows.
const SANDBOX: &str = "sandbox";

#[test]
fn a_pod_does_what_it_does_with_runc() {
    let containerd = Containerd::start();
    let [ringfence, runc] = [RINGFENCE, RUNC].map(|handler| {
        [tour::tour(&containerd, handler), tour::processes(&containerd, handler)].concat()
    });
    assert_eq!(ringfence, runc);
    containerd.expect_nothing_left();
}

#[test]
fn streams_of_a_pod_are_carried() {
    let containerd = Containerd::start();
    for handler in [RINGFENCE, RUNC] {
        streams::tour(&containerd, handler);
    }
    containerd.expect_nothing_left();
}

#[test]
fn a_pod_without_a_first_container_does_what_one_with_it_does() {
    let containerd = Containerd::start_second();
    let [with, without] = [RINGFENCE, SANDBOX].map(|handler| tour::tour(&containerd, handler));
    assert_eq!(without, with);
    streams::forwarded(&containerd, SANDBOX);
    containerd.expect_nothing_left();
}

#[test]
fn pods_of_any_size_and_end_leave_nothing() {
    let containerd = Containerd::start();
    tour::sizes(&containerd);
    restarts::restarts(&containerd, restarts::FEW);
    many::at_once(&containerd, 5);
    killed::killed(&containerd);
    containerd.expect_nothing_left();
}

#[test]
#[ignore = "half an hour"]
fn a_container_is_restarted_500_times() {
    let containerd = Containerd::start();
    restarts::restarts(&containerd, 500);
    containerd.expect_nothing_left();
}

#[test]
#[ignore = "ten minutes"]
fn fifty_pods_are_there_at_once() {
    many::at_once(&Containerd::start(), 50);
}

#[test]
#[ignore = "an hour"]
fn five_hundred_pods_come_one_after_the_other() {
    many::in_a_row(&Containerd::start(), 500);
}
