//! Many pods, at once and one after the other.

use integration_tests::host;

use crate::RINGFENCE;
use crate::daemon::Containerd;
use crate::pod::Pod;
use crate::restarts::{GIVEN_BACK, descriptors};

/// After so many everything that is made once is there.
const FIRST: u32 = 5;

fn small(containerd: &Containerd, number: u32) -> Pod {
    Pod::run_with(containerd, RINGFENCE, &format!("many-{number}"), |config| {
        config.annotations.insert("dev.ringfence.memory_mib".to_owned(), "96".to_owned());
    })
}

/// So many are made at once, are there together, and end at once.
pub(crate) fn at_once(containerd: &Containerd, count: u32) {
    let together = |work: &(dyn Fn(u32) + Sync)| {
        std::thread::scope(|scope| {
            for number in 0..count {
                drop(scope.spawn(move || work(number)));
            }
        });
    };
    let pods = std::sync::Mutex::new(vec![]);
    let all = || pods.lock().expect("no test has panicked with it");
    together(&|number| {
        let pod = small(containerd, number);
        all().push(pod);
    });
    let machines = host::processes().into_iter().filter(|one| one.name == "ringfence-vmm").count();
    assert_eq!(machines, count as usize);
    together(&|_| {
        let pod = all().pop();
        pod.expect("one for each").remove();
    });
    containerd.expect_nothing_left();
}

/// One after the other: nothing of them is left, and containerd holds no more than before.
pub(crate) fn in_a_row(containerd: &Containerd, count: u32) {
    let round = |number: u32| small(containerd, number).remove();
    (0..FIRST).for_each(round);
    let before = descriptors(containerd.pid());
    (FIRST..count).for_each(round);
    let mut after = before;
    crate::daemon::wait_until("descriptors are given back", GIVEN_BACK, || {
        after = descriptors(containerd.pid());
        after <= before
    });
    containerd.expect_nothing_left();
}
