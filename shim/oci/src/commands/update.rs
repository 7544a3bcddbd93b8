//! `ringfence update`: options, or a file, to what `linux.resources` is in a config.json.

use crate::args::{Global, LimitOptions, Update};
use crate::error::CommandError;
use sandbox::spec::ResourceUpdate;
use sandbox::{Container, SandboxError};
use serde_json::{Map, Value};

pub(crate) fn execute(global: &Global, update: &Update) -> Result<u8, CommandError> {
    let container = Container::find(&global.root, &update.id)?;
    let value = match &update.resources {
        None => resources(&update.limits)?,
        Some(_) if update.limits != LimitOptions::default() => {
            return Err(CommandError::Option {
                option: "--resources with a limit beside it".to_owned(),
                remedy: "put the limit into the file",
            });
        }
        Some(file) => ResourceUpdate::read_document(file).map_err(SandboxError::from)?,
    };
    let update = ResourceUpdate::from_value(&value).map_err(SandboxError::from)?;
    container.update(update)?;
    Ok(0)
}

/// The options as properties; what is not given is not there.
fn resources(limits: &LimitOptions) -> Result<Value, CommandError> {
    for (option, value) in
        [("--l3-cache-schema", &limits.l3_cache_schema), ("--mem-bw-schema", &limits.mem_bw_schema)]
    {
        if let Some(value) = value {
            return Err(CommandError::Option {
                option: format!("{option} {value}"),
                remedy: "cache and bandwidth classes of the host are not there; leave it out",
            });
        }
    }
    let mut all = Map::new();
    let mut set = |section: &str, name: &str, value: Option<Value>| {
        if let Some(value) = value {
            let section = all.entry(section).or_insert_with(|| Map::new().into());
            if let Some(section) = section.as_object_mut() {
                section.insert(name.to_owned(), value);
            }
        }
    };
    set("blockIO", "weight", limits.blkio_weight.map(Value::from));
    set("cpu", "period", limits.cpu_period.map(Value::from));
    set("cpu", "quota", limits.cpu_quota.map(Value::from));
    set("cpu", "burst", limits.cpu_burst.map(Value::from));
    set("cpu", "shares", limits.cpu_share.map(Value::from));
    set("cpu", "realtimePeriod", limits.cpu_rt_period.map(Value::from));
    set("cpu", "realtimeRuntime", limits.cpu_rt_runtime.map(Value::from));
    set("cpu", "idle", limits.cpu_idle.map(Value::from));
    set("cpu", "cpus", limits.cpuset_cpus.clone().map(Value::from));
    set("cpu", "mems", limits.cpuset_mems.clone().map(Value::from));
    set("memory", "kernel", limits.kernel_memory.map(Value::from));
    set("memory", "kernelTCP", limits.kernel_memory_tcp.map(Value::from));
    set("memory", "limit", limits.memory.map(Value::from));
    set("memory", "reservation", limits.memory_reservation.map(Value::from));
    set("memory", "swap", limits.memory_swap.map(Value::from));
    set("pids", "limit", limits.pids_limit.map(Value::from));
    Ok(Value::Object(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_properties() {
        assert_eq!(resources(&LimitOptions::default()).unwrap(), json!({}));
        let limits = LimitOptions {
            memory: Some(-1),
            cpu_quota: Some(5000),
            cpuset_cpus: Some("0".into()),
            pids_limit: Some(7),
            ..LimitOptions::default()
        };
        let expected = json!({
            "memory": { "limit": -1 }, "cpu": { "quota": 5000, "cpus": "0" },
            "pids": { "limit": 7 },
        });
        assert_eq!(resources(&limits).unwrap(), expected);
        let limits = LimitOptions { l3_cache_schema: Some("L3:0=f".into()), ..limits };
        let error = resources(&limits).unwrap_err().to_string();
        assert!(error.contains("--l3-cache-schema L3:0=f"), "{error}");
    }
}
