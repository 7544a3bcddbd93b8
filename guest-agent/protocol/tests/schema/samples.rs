//! Messages with something in every field.

use agent_protocol::*;

/// Names and whole frames.
pub(crate) fn frames() -> Vec<(String, Vec<u8>)> {
    let requests = requests().into_iter().zip(1..).map(|((name, request), id)| {
        let frame = encode(&HostMessage { id, request }, MAX_HOST_FRAME).unwrap();
        (name.to_owned(), frame)
    });
    let answers = answers().into_iter().map(|(name, message)| {
        let frame = encode(&message, MAX_GUEST_FRAME).unwrap();
        (name.to_owned(), frame)
    });
    requests.chain(answers).collect()
}

fn requests() -> Vec<(&'static str, Request)> {
    let (container, process) = ("c".to_owned(), "p".to_owned());
    let config = GuestConfig {
        version: VERSION,
        realtime_ns: 1_700_000_000_123_456_789,
        seed: std::array::from_fn(|index| u8::try_from(index).unwrap()),
        shares: true,
    };
    let size = WindowSize { rows: 25, columns: 300 };
    vec![
        ("Configure", Request::Configure(config)),
        ("CreateContainer", Request::CreateContainer(Box::new(container_plan()))),
        ("CreateContainerOnDisk", Request::CreateContainer(Box::new(plan_with_disk()))),
        ("CreateContainerOnLayers", Request::CreateContainer(Box::new(plan_with_layers()))),
        ("CreateContainerOfNothing", Request::CreateContainer(Box::new(plan_of_nothing()))),
        ("StartContainer", Request::StartContainer { container: container.clone() }),
        (
            "StartProcess",
            Request::StartProcess {
                container: container.clone(),
                process: process.clone(),
                plan: Box::new(process_plan()),
            },
        ),
        (
            "Signal",
            Request::Signal {
                container: container.clone(),
                process: process.clone(),
                signal: 15,
                all: true,
            },
        ),
        ("ResizeTerminal", Request::ResizeTerminal { container: container.clone(), process, size }),
        ("DeleteContainer", Request::DeleteContainer { container: container.clone() }),
        ("SetTime", Request::SetTime { realtime_ns: u64::MAX }),
        ("Sync", Request::Sync),
        ("ListProcesses", Request::ListProcesses { container: container.clone(), after: 300 }),
        ("ReadStatistics", Request::ReadStatistics { container: container.clone() }),
        ("ConfigureNetwork", Request::ConfigureNetwork(network_plan())),
        ("Freeze", Request::Freeze { container: container.clone(), frozen: true }),
        ("ForgetShare", Request::ForgetShare { name: "s".into() }),
        ("ForwardPort", Request::ForwardPort { port: 8080, stream: FIRST_STREAM_PORT }),
        (
            "UpdateResources",
            Request::UpdateResources {
                container,
                settings: vec![FileWrite { path: "memory.max".into(), value: "max".into() }],
            },
        ),
    ]
}

fn network_plan() -> NetworkPlan {
    NetworkPlan {
        interfaces: vec![InterfacePlan {
            mac: [2, 3, 4, 5, 6, 7],
            name: "eth0".into(),
            mtu: 1500,
            addresses: vec![AddressPlan {
                address: Address::V4([10, 0, 0, 2]),
                prefix: 24,
                peer: None,
                broadcast: Some(Address::V4([10, 0, 0, 255])),
                scope: 0,
            }],
            routes: vec![RoutePlan {
                destination: Address::V6([0; 16]),
                prefix: 0,
                gateway: Some(Address::V6([0xfd; 16])),
                onlink: true,
                source: None,
                priority: Some(1024),
                scope: 0,
                mtu: Some(1400),
            }],
            neighbours: vec![NeighbourPlan {
                address: Address::V4([10, 0, 0, 1]),
                mac: [9, 8, 7, 6, 5, 4],
            }],
        }],
        name_server: Some(NameServerPlan { address: [127, 0, 0, 11], port: NAMES_PORT }),
    }
}

fn answers() -> Vec<(&'static str, GuestMessage)> {
    let reply = |id, reply| GuestMessage::Reply { id, result: Ok(reply) };
    let error = |kind, errno| GuestMessage::Reply {
        id: 9,
        result: Err(AgentError { kind, message: "step: why".into(), errno }),
    };
    let exited = |status, oom_killed| {
        GuestMessage::Event(Event::ProcessExited {
            container: "c".into(),
            process: INIT_PROCESS.into(),
            status,
            oom_killed,
            at_ns: 4_000,
        })
    };
    vec![
        (
            "Hello",
            GuestMessage::Hello {
                version: VERSION,
                agent_start_ns: 1_000,
                now_ns: 2_000,
                kernel_release: "6.12.1".into(),
            },
        ),
        ("Done", reply(1, Reply::Done)),
        ("Created", reply(2, Reply::Created { pid: 17, at_ns: 3_000 })),
        ("Started", reply(3, Reply::Started { pid: 70_000, at_ns: u64::MAX })),
        ("InvalidArgument", error(ErrorKind::InvalidArgument, 0)),
        ("NotFound", error(ErrorKind::NotFound, 0)),
        ("WrongState", error(ErrorKind::WrongState, 0)),
        ("ProgramMissing", error(ErrorKind::ProgramMissing, 2)),
        ("ProgramNotExecutable", error(ErrorKind::ProgramNotExecutable, 13)),
        ("Failed", error(ErrorKind::Failed, -1)),
        ("ProcessExited", exited(ExitStatus::Exited(255), false)),
        ("ProcessExited-Signaled", exited(ExitStatus::Signaled(9), true)),
        (
            "OutOfMemory",
            GuestMessage::Event(Event::OutOfMemory {
                container: "c".into(),
                kills: 300,
                at_ns: 5_000,
            }),
        ),
        ("Processes", reply(10, Reply::Processes(process_list()))),
        ("Statistics", reply(11, Reply::Statistics(Box::new(statistics())))),
    ]
}

fn process_list() -> ProcessList {
    let process = ProcessInfo {
        pid: 17,
        parent: 1,
        uid: 1000,
        started_ns: 10_000_000,
        cpu_ns: 20_000_000,
        terminal: 0x8801,
        command: "sh -c x".into(),
    };
    ProcessList { processes: vec![process], more: true, at_ns: 6_000 }
}

fn statistics() -> Statistics {
    let counter = |name: &str, value| Counter { name: name.into(), value };
    Statistics {
        cpu: CpuStatistics {
            usage_us: 1,
            user_us: 2,
            system_us: 300,
            periods: 4,
            throttled_periods: 5,
            throttled_us: 6,
        },
        memory: MemoryStatistics {
            usage: 7,
            limit: Some(8),
            peak: 9,
            swap_usage: 10,
            swap_limit: None,
            stat: vec![counter("anon", 11), counter("file", 12)],
            events: vec![counter("oom_kill", 13)],
        },
        pids: PidsStatistics { current: 14, limit: Some(15) },
        io: vec![IoStatistics {
            major: 254,
            minor: 16,
            read_bytes: 17,
            written_bytes: 18,
            discarded_bytes: 19,
            reads: 20,
            writes: 21,
            discards: 22,
        }],
        huge_pages: vec![HugePageStatistics {
            size: "2MB".into(),
            usage: 23,
            limit: None,
            failures: 24,
        }],
    }
}

fn container_plan() -> ContainerPlan {
    ContainerPlan {
        id: "c".into(),
        namespaces: Namespaces {
            pid: true,
            uts: false,
            ipc: true,
            cgroup: false,
            network: true,
            user: true,
        },
        shared: Some(SharedNamespaces {
            container: "p".into(),
            pid: false,
            uts: true,
            ipc: false,
            network: false,
        }),
        uid_mappings: vec![IdMapping { container_id: 0, host_id: 100_000, size: 65_536 }],
        gid_mappings: vec![IdMapping { container_id: 1, host_id: 2, size: 3 }],
        hostname: Some("h".into()),
        domainname: None,
        root: root_plan(),
        mounts: vec![
            MountPlan {
                destination: "/data".into(),
                source: MountSource::Share { name: "s".into(), directory: true, recursive: false },
                flags: 0x1001,
                propagation: vec![0x40000],
                recursive: Some(MountAttributes { set: 1, clear: 0x10 }),
            },
            MountPlan {
                destination: "/tmp".into(),
                source: MountSource::FileSystem {
                    kind: "tmpfs".into(),
                    source: "tmp".into(),
                    data: "mode=1777".into(),
                    copy_up: true,
                },
                flags: 0,
                propagation: vec![],
                recursive: None,
            },
            MountPlan {
                destination: "/dev/shm".into(),
                source: MountSource::Memory { name: "shm".into(), data: "size=64m".into() },
                flags: 2,
                propagation: vec![],
                recursive: None,
            },
        ],
        devices: vec![DevicePlan {
            path: "/dev/x".into(),
            mode: 0o020_666,
            major: 1,
            minor: 300,
            uid: 5,
            gid: 6,
        }],
        masked_paths: vec!["/proc/kcore".into()],
        readonly_paths: vec!["/proc/sys".into()],
        sysctl: vec![FileWrite { path: "net/a".into(), value: "1".into() }],
        cgroup: CgroupPlan {
            settings: vec![FileWrite { path: "pids.max".into(), value: "9".into() }],
            device_program: Some(vec![0x95, 0, 0, 0, 0, 0, 0, 0]),
        },
        seccomp: Some(SeccompPlan { program: vec![6, 0, 0, 0, 0, 0, 0xff, 0x7f], flags: 4 }),
        init: process_plan(),
        start_hooks: StartHooks {
            state: "{\"id\":\"c\",\"pid\":".into(),
            hooks: vec![HookPlan {
                name: "hooks.startContainer[0]".into(),
                path: "/bin/h".into(),
                args: vec!["h".into(), "-x".into()],
                env: vec!["C=d".into()],
                timeout_s: 300,
            }],
        },
    }
}

fn process_plan() -> ProcessPlan {
    ProcessPlan {
        args: vec!["sh".into(), "-c".into()],
        env: vec!["A=b".into()],
        cwd: "/w".into(),
        user: UserPlan { uid: 1000, gid: 100, additional_gids: vec![4, 24], umask: Some(0o27) },
        capabilities: Capabilities {
            bounding: 0xa804_25fb,
            effective: 1,
            inheritable: 2,
            permitted: 3,
            ambient: 1 << 40,
        },
        rlimits: vec![Rlimit { resource: 7, soft: 1024, hard: u64::MAX }],
        no_new_privileges: true,
        oom_score_adj: Some(-500),
        io_priority: Some(IoPriority { class: 2, level: 7 }),
        scheduler: Some(Scheduler {
            policy: 6,
            flags: 1,
            nice: -3,
            priority: 2,
            runtime: 10,
            deadline: 20,
            period: 30,
        }),
        personality: Some(8),
        stdio: StdioPlan {
            stdin: Some(FIRST_STREAM_PORT),
            stdout: None,
            stderr: Some(FIRST_STREAM_PORT + 1),
            terminal: Some(TerminalPlan {
                port: FIRST_STREAM_PORT + 2,
                size: WindowSize { rows: 24, columns: 80 },
            }),
        },
    }
}

fn plan_of_nothing() -> ContainerPlan {
    let mut plan = container_plan();
    plan.root.source = RootSource::Nothing;
    plan
}

fn root_plan() -> RootPlan {
    let source = RootSource::Share { name: "root".into() };
    RootPlan { source, read_only: true, propagation: 0x44000 }
}

fn plan_with_disk() -> ContainerPlan {
    let directory = |file_system, path: &str| DiskDirectory { file_system, path: path.into() };
    let mut plan = container_plan();
    plan.root.source = RootSource::Disk(DiskPlan {
        serial: "disk0".into(),
        images: vec![],
        file_systems: vec![DiskFileSystem {
            image: 0,
            devices: vec![],
            kind: "ext4".into(),
            flags: 1,
            data: "noload".into(),
        }],
        directories: vec![],
        root: DiskRootPlan::Directory(directory(0, "")),
    });
    plan
}

fn plan_with_layers() -> ContainerPlan {
    let directory = |file_system, path: &str| DiskDirectory { file_system, path: path.into() };
    let file_system = |image, devices: &[u16], kind: &str| DiskFileSystem {
        image,
        devices: devices.to_vec(),
        kind: kind.into(),
        flags: 0,
        data: String::new(),
    };
    let mut plan = container_plan();
    plan.root.source = RootSource::Disk(DiskPlan {
        serial: "disk1".into(),
        images: vec![
            DiskImage { start: 0, bytes: 1 << 20 },
            DiskImage { start: 1 << 20, bytes: 4096 },
            DiskImage { start: (1 << 20) + 4096, bytes: 8192 },
        ],
        file_systems: vec![file_system(0, &[], "ext4"), file_system(1, &[2], "erofs")],
        directories: vec![NewDirectory { directory: directory(0, "upper"), mode: 0o755 }],
        root: DiskRootPlan::Overlay(OverlayPlan {
            lower: vec![directory(1, "")],
            upper: Some(WritableLayer { upper: directory(0, "upper"), work: directory(0, "work") }),
            flags: 2,
            options: vec![("index".into(), Some("off".into())), ("volatile".into(), None)],
        }),
    });
    plan
}
