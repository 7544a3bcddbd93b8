//! What a kubelet asks of a pod, as containerd's CRI plugin hands it to a sandbox: a few fields of
//! `runtime.v1.PodSandboxConfig`, read by their numbers, and the bundle that they make.

use crate::shim_error::ShimError;
use protobuf::rt::WireType;
use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, UnknownValue};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Name of the message.
const NAME: &str = "runtime.v1.PodSandboxConfig";
/// Annotations that are ringfence's; the others are the pod's own business.
const OWN: &str = "dev.ringfence.";
/// `NamespaceMode.NODE`: a namespace of the host.
const NODE: u64 = 2;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodConfig {
    hostname: String,
    pub(crate) servers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) dns_options: Vec<String>,
    annotations: BTreeMap<String, String>,
    cgroup_parent: String,
    sysctls: BTreeMap<String, String>,
    /// Kinds of namespaces that are to be the host's.
    of_host: Vec<&'static str>,
    period: u64,
    quota: u64,
    shares: u64,
    memory: u64,
}

impl PodConfig {
    /// Reads the options of a sandbox, which are a pod's or none.
    pub(crate) fn read(options: Option<&Any>) -> Result<Self, ShimError> {
        let mut config = Self::default();
        let Some(any) = options.filter(|any| !any.type_url.is_empty()) else { return Ok(config) };
        if any.type_url.rsplit('/').next() != Some(NAME) {
            return Err(ShimError::Option {
                option: "the sandbox's options".to_owned(),
                value: any.type_url.clone(),
                problem: format!("ringfence knows {NAME}"),
            });
        }
        config.take(&any.value).map_err(ShimError::Message)?;
        Ok(config)
    }

    fn take(&mut self, message: &[u8]) -> protobuf::Result<()> {
        for field in fields(message)? {
            match field {
                (2, UnknownValue::LengthDelimited(text)) => self.hostname = to_text(&text)?,
                (4, UnknownValue::LengthDelimited(dns)) => self.take_dns(&dns)?,
                (7, UnknownValue::LengthDelimited(entry)) => {
                    self.annotations.extend([to_entry(&entry)?]);
                }
                (8, UnknownValue::LengthDelimited(linux)) => self.take_linux(&linux)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn take_dns(&mut self, message: &[u8]) -> protobuf::Result<()> {
        for field in fields(message)? {
            let (1..=3, UnknownValue::LengthDelimited(text)) = &field else { continue };
            let list = match field.0 {
                1 => &mut self.servers,
                2 => &mut self.searches,
                _ => &mut self.dns_options,
            };
            list.push(to_text(text)?);
        }
        Ok(())
    }

    fn take_linux(&mut self, message: &[u8]) -> protobuf::Result<()> {
        for field in fields(message)? {
            match field {
                (1, UnknownValue::LengthDelimited(text)) => self.cgroup_parent = to_text(&text)?,
                (2, UnknownValue::LengthDelimited(security)) => self.take_security(&security)?,
                (3, UnknownValue::LengthDelimited(entry)) => {
                    self.sysctls.extend([to_entry(&entry)?]);
                }
                (5, UnknownValue::LengthDelimited(limits)) => self.take_limits(&limits)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn take_security(&mut self, message: &[u8]) -> protobuf::Result<()> {
        for field in fields(message)? {
            let (1, UnknownValue::LengthDelimited(namespaces)) = field else { continue };
            for field in fields(&namespaces)? {
                let (number, UnknownValue::Varint(NODE)) = field else { continue };
                let kinds = [(1, "network"), (2, "pid"), (3, "ipc")];
                self.of_host.extend(kinds.iter().find(|kind| kind.0 == number).map(|kind| kind.1));
            }
        }
        Ok(())
    }

    fn take_limits(&mut self, message: &[u8]) -> protobuf::Result<()> {
        for field in fields(message)? {
            match field {
                (1, UnknownValue::Varint(value)) => self.period = value,
                (2, UnknownValue::Varint(value)) => self.quota = value,
                (3, UnknownValue::Varint(value)) => self.shares = value,
                (4, UnknownValue::Varint(value)) => self.memory = value,
                _ => {}
            }
        }
        Ok(())
    }

    /// Name of the pod, if it has one.
    pub(crate) fn hostname(&self) -> Option<&str> {
        Some(self.hostname.as_str()).filter(|name| !name.is_empty())
    }

    /// The bundle of what keeps the pod's namespaces.
    pub(crate) fn document(
        &self,
        id: &str,
        network: &str,
        annotations: &std::collections::HashMap<String, String>,
        systemd_cgroup: bool,
    ) -> Result<Value, ShimError> {
        if let Some(kind) = self.of_host.first() {
            return Err(ShimError::Option {
                option: format!("the pod's {kind} namespace"),
                value: "NODE".to_owned(),
                problem: "a virtual machine cannot be in a namespace of the host".to_owned(),
            });
        }
        let mut all: BTreeMap<String, String> = annotations.clone().into_iter().collect();
        let own = self.annotations.iter().filter(|(name, _)| name.starts_with(OWN));
        all.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        all.insert("io.kubernetes.cri.container-type".to_owned(), "sandbox".to_owned());
        for (name, value) in [
            ("cpu-period", self.period),
            ("cpu-quota", self.quota),
            ("cpu-shares", self.shares),
            ("memory", self.memory),
        ] {
            // A quota of -1 is none.
            let value = i64::try_from(value).unwrap_or(0);
            all.insert(format!("io.kubernetes.cri.sandbox-{name}"), value.to_string());
        }
        let mut namespaces = vec![json!({ "type": "pid" }), json!({ "type": "ipc" })];
        namespaces.extend([json!({ "type": "uts" }), json!({ "type": "mount" })]);
        namespaces.push(if network.is_empty() {
            json!({ "type": "network" })
        } else {
            json!({ "type": "network", "path": network })
        });
        let mut document = json!({
            "ociVersion": "1.1.0",
            "process": { "cwd": "/", "args": ["keeper"], "user": { "uid": 0, "gid": 0 } },
            "root": { "path": "rootfs", "readonly": true },
            "annotations": all,
            "linux": { "namespaces": namespaces, "sysctl": self.sysctls },
        });
        if let Some(name) = self.hostname() {
            document["hostname"] = json!(name);
        }
        if let Some(path) = self.cgroups_path(id, systemd_cgroup) {
            document["linux"]["cgroupsPath"] = json!(path);
        }
        Ok(document)
    }

    /// As containerd names the cgroup of a pod's first container.
    fn cgroups_path(&self, id: &str, systemd_cgroup: bool) -> Option<String> {
        let parent = self.cgroup_parent.as_str();
        if parent.is_empty() {
            return None;
        }
        if systemd_cgroup {
            let slice = parent.rsplit('/').next().unwrap_or(parent);
            return Some(format!("{slice}:cri-containerd:{id}"));
        }
        Some(format!("{}/{id}", parent.trim_end_matches('/')))
    }
}

/// The fields of a message in order.
fn fields(message: &[u8]) -> protobuf::Result<Vec<(u32, UnknownValue)>> {
    let mut stream = CodedInputStream::from_bytes(message);
    let mut fields = Vec::new();
    while let Some(tag) = stream.read_raw_tag_or_eof()? {
        let Some(kind) = WireType::new(tag & 7) else {
            return Err(std::io::Error::from(std::io::ErrorKind::InvalidData).into());
        };
        fields.push((tag >> 3, stream.read_unknown(kind)?));
    }
    Ok(fields)
}

fn to_text(bytes: &[u8]) -> protobuf::Result<String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData).into())
}

/// Key and value of an entry of a map.
fn to_entry(message: &[u8]) -> protobuf::Result<(String, String)> {
    let (mut key, mut value) = (String::new(), String::new());
    for field in fields(message)? {
        match field {
            (1, UnknownValue::LengthDelimited(text)) => key = to_text(&text)?,
            (2, UnknownValue::LengthDelimited(text)) => value = to_text(&text)?,
            _ => {}
        }
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn text(number: u8, text: &[u8]) -> Vec<u8> {
        let length = u8::try_from(text.len()).unwrap();
        [&[number << 3 | 2, length], text].concat()
    }

    fn entry(number: u8, key: &str, value: &str) -> Vec<u8> {
        text(number, &[text(1, key.as_bytes()), text(2, value.as_bytes())].concat())
    }

    fn options(value: Vec<u8>) -> Any {
        Any { type_url: NAME.to_owned(), value, ..Any::default() }
    }

    fn config() -> Vec<u8> {
        let namespaces = text(2, &text(1, &[1 << 3, 0, 2 << 3, 1]));
        let limits = text(5, &[1 << 3, 100, 2 << 3, 50, 4 << 3, 0x80, 0x80, 0x40]);
        let linux = [text(1, b"/pods/x"), namespaces, entry(3, "net.a", "1"), limits].concat();
        let dns = [text(1, b"10.0.0.1"), text(2, b"a.b"), text(3, b"ndots:5")].concat();
        [
            text(1, b"\x0a\x01n"),
            text(2, b"name"),
            text(4, &dns),
            entry(7, "dev.ringfence.vcpus", "2"),
            entry(7, "other", "x"),
            text(8, &linux),
        ]
        .concat()
    }

    #[test]
    fn a_pod_makes_a_bundle() {
        let config = PodConfig::read(Some(&options(config()))).unwrap();
        assert_eq!(config.servers, ["10.0.0.1"]);
        assert_eq!(
            (&config.searches[..], &config.dns_options[..]),
            (&["a.b".to_owned()][..], &["ndots:5".to_owned()][..])
        );
        let none = HashMap::new();
        let document = config.document("i", "/run/netns/x", &none, false).unwrap();
        assert_eq!(document["hostname"], "name");
        assert_eq!(document["linux"]["cgroupsPath"], "/pods/x/i");
        assert_eq!(document["linux"]["sysctl"]["net.a"], "1");
        assert_eq!(document["linux"]["namespaces"][4]["path"], "/run/netns/x");
        let annotations = &document["annotations"];
        assert_eq!(annotations["dev.ringfence.vcpus"], "2");
        assert!(annotations["other"].is_null());
        assert_eq!(annotations["io.kubernetes.cri.sandbox-memory"], "1048576");
        assert_eq!(annotations["io.kubernetes.cri.sandbox-cpu-quota"], "50");
        let systemd = PodConfig { cgroup_parent: "/a.slice/b.slice".into(), ..config };
        let document = systemd.document("i", "", &none, true).unwrap();
        assert_eq!(document["linux"]["cgroupsPath"], "b.slice:cri-containerd:i");
        assert!(document["linux"]["namespaces"][4]["path"].is_null());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let unknown = Any { type_url: "x.Y".into(), ..Any::default() };
        assert!(PodConfig::read(Some(&unknown)).unwrap_err().to_string().contains("x.Y"));
        PodConfig::read(Some(&options(vec![0xff]))).unwrap_err();
        assert_eq!(PodConfig::read(None).unwrap(), PodConfig::default());
        let host = text(8, &text(2, &text(1, &[1 << 3, 2])));
        let host = PodConfig::read(Some(&options(host))).unwrap();
        let error = host.document("i", "", &HashMap::new(), false).unwrap_err().to_string();
        assert!(error.contains("network") && error.contains("NODE"), "{error}");
    }
}
