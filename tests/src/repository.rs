//! A repository of Debian packages, made of what is installed in a test root: a lab reaches no network.

use std::path::Path;

use crate::{Invocation, Lab};

/// `make ROOT DIRECTORY PACKAGE…`. Files that were left out when a package was installed, as manuals are,
/// are left out of the package too.
const MAKE: &str = r#"set -e
root=$1
cd "$2"
shift 2
for name; do
    for list in "$root/var/lib/dpkg/info/$name".list "$root/var/lib/dpkg/info/$name":*.list; do
        [ ! -e "$list" ] || break
    done
    info=${list%.list}
    mkdir -p .tree/DEBIAN
    while read -r path; do
        [ ! -e "$root$path" ] && [ ! -L "$root$path" ] || echo ".$path"
    done <"$list" | tar -C "$root" --no-recursion -c -T - | tar -x -p -C .tree
    awk -v RS= -v first="Package: $name" -F '\n' '$1 == first' "$root/var/lib/dpkg/status" |
        awk '/^[^ ]/ { left_out = /^(Status|Conffiles):/ } !left_out' >.tree/DEBIAN/control
    for part in conffiles preinst postinst prerm postrm triggers; do
        [ ! -e "$info.$part" ] || cp "$info.$part" .tree/DEBIAN
    done
    dpkg-deb -Znone --root-owner-group -b .tree "$name.deb" >/dev/null
    cat .tree/DEBIAN/control
    echo "Filename: ./$name.deb"
    stat -c 'Size: %s' "$name.deb"
    echo "SHA256: $(sha256sum <"$name.deb" | cut -d ' ' -f 1)"
    echo
    rm -r .tree
done >Packages
"#;

/// Makes a repository in `directory`, which is empty, of packages that are installed in the test root
/// `root`. For `sources.list`: `deb [trusted=yes] file:DIRECTORY ./`.
///
/// # Panics
/// If it cannot be made.
pub fn make(lab: &Lab, root: &str, directory: &Path, packages: &[&str]) {
    let make = Invocation::new("sh").args(&["-c", MAKE, "make"]);
    make.arg(lab.root(root)).arg(directory).args(packages).run().expect_code(0);
}
