//! `linux.cgroupsPath`: where the container's cgroup on the host is (config-linux.md, Cgroups Path).

use crate::spec::error::SpecError;
use crate::spec::json::Fields;

/// Bytes of the path: PATH_MAX, less what the host has before it.
const MAX_PATH: usize = 3072;
/// Bytes of one directory's name (NAME_MAX).
const MAX_NAME: usize = 255;

/// A path of directories below the root of the hierarchy, or below the caller's own cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupsPath {
    /// It begins at the root of the hierarchy.
    pub absolute: bool,
    /// Names of directories; never empty.
    pub parts: Vec<String>,
}

/// Reads it. With `systemd` it has the form `slice:prefix:name`, and means the directory that
/// systemd would make for that scope.
pub(super) fn read(linux: &Fields<'_>, systemd: bool) -> Result<Option<CgroupsPath>, SpecError> {
    let Some(node) = linux.get("cgroupsPath").filter(|node| !node.is_blank()) else {
        return Ok(None);
    };
    let text = node.text()?;
    if text.len() > MAX_PATH {
        return Err(node.invalid(format!("a path has at most {MAX_PATH} bytes")));
    }
    let path = if systemd { scope(text) } else { plain(text) };
    let path = path.map_err(|problem| node.invalid(problem))?;
    if let Some(part) = path.parts.iter().find(|part| part.len() > MAX_NAME) {
        return Err(node.invalid(format!("the name {part:?} has more than {MAX_NAME} bytes")));
    }
    Ok(Some(path))
}

fn plain(text: &str) -> Result<CgroupsPath, String> {
    let parts = text.split('/').filter(|part| !part.is_empty() && *part != ".");
    let parts: Vec<String> = parts.map(str::to_owned).collect();
    // What begins so is an interface file of cgroup v2.
    let bad = |part: &String| part == ".." || part.starts_with("cgroup.");
    if parts.iter().any(bad) {
        return Err("it must hold neither \"..\" nor names that begin with \"cgroup.\"".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("it must not hold control characters".to_owned());
    }
    if parts.is_empty() {
        return Err("it must not be the root of all cgroups".to_owned());
    }
    Ok(CgroupsPath { absolute: text.starts_with('/'), parts })
}

/// `slice:prefix:name` to `/a.slice/a-b.slice/prefix-name.scope` (systemd.slice(5)).
fn scope(text: &str) -> Result<CgroupsPath, String> {
    let form = || "with --systemd-cgroup it has the form slice:prefix:name".to_owned();
    let [slice, prefix, name] = text.split(':').collect::<Vec<_>>()[..] else {
        return Err(form());
    };
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || ":_.-\\@".contains(letter);
    if name.is_empty() || ![slice, prefix, name].iter().all(|part| part.chars().all(allowed)) {
        return Err(form());
    }
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let mut parts = expand(slice).ok_or_else(|| format!("{slice:?} is no name of a slice"))?;
    parts.push(match (name.ends_with(".slice"), prefix) {
        (true, _) => name.to_owned(),
        (false, "") => format!("{name}.scope"),
        (false, prefix) => format!("{prefix}-{name}.scope"),
    });
    Ok(CgroupsPath { absolute: true, parts })
}

/// `a-b.slice` lies in `a.slice`; `-.slice` is the root.
fn expand(slice: &str) -> Option<Vec<String>> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(Vec::new());
    }
    let mut parts = Vec::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() || part.starts_with('.') {
            return None;
        }
        prefix.push_str(part);
        parts.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::json::Node;
    use serde_json::json;

    fn of(text: &str, systemd: bool) -> Result<String, String> {
        let linux = json!({ "cgroupsPath": text });
        let fields = Node::document(&linux).fields().unwrap();
        let path = read(&fields, systemd).map_err(|error| error.to_string())?;
        let shown = |path: CgroupsPath| {
            format!("{}{}", if path.absolute { "/" } else { "" }, path.parts.join("/"))
        };
        Ok(path.map(shown).unwrap_or_default())
    }

    #[test]
    fn paths_are_those_that_runc_makes() {
        for (text, systemd, expected) in [
            ("", false, ""),
            ("/a/b", false, "/a/b"),
            ("a//./b/", false, "a/b"),
            ("a:b:c", false, "a:b:c"),
            ("", true, ""),
            ("system.slice:docker:123", true, "/system.slice/docker-123.scope"),
            (":libpod:1", true, "/system.slice/libpod-1.scope"),
            ("user-1000.slice:p:n", true, "/user.slice/user-1000.slice/p-n.scope"),
            ("-.slice::n", true, "/n.scope"),
            ("a.slice:p:b.slice", true, "/a.slice/b.slice"),
        ] {
            assert_eq!(of(text, systemd).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for (text, systemd) in [
            ("/", false),
            ("/../a", false),
            ("a/..", false),
            ("/a/cgroup.procs", false),
            ("/a\nb", false),
            ("/a/b", true),
            ("a:b", true),
            ("a.slice:b:", true),
            ("a:b:c", true),
            ("a--b.slice:p:n", true),
            (".slice:p:n", true),
            ("a.slice:../x:n", true),
            ("a.slice:p:n/..", true),
        ] {
            let error = of(text, systemd).unwrap_err();
            assert!(error.starts_with("cgroupsPath is "), "{text:?}: {error}");
        }
        assert!(of(&"x".repeat(256), false).is_err());
        assert!(of(&"x/".repeat(3000), false).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_refused_or_stays_below_the_root(text in "\\PC{0,100}", systemd: bool) {
            if let Ok(path) = of(&text, systemd) {
                proptest::prop_assert!(path.split('/').all(|part| part != ".." && part != "."));
            }
        }
    }
}
