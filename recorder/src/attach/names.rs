//! What a virtual machine is called, from the command line of its process and the names of its threads.

use std::fs;
use std::path::Path;

/// A virtual machine of this host: a process that has one of KVM's open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// Its process.
    pub process: u32,
    /// Its name, as its command line says it; else its process's.
    pub name: String,
    /// What runs it, as `qemu`.
    pub vmm: String,
    /// Its vCPUs' numbers in the trace begin here: 64 are each machine's.
    pub first: u16,
}

/// The virtual machines that there are, by rising process, or that process alone.
pub(super) fn machines(only: Option<u32>) -> Vec<Machine> {
    let mut found: Vec<u32> = match only {
        Some(process) => vec![process],
        None => numbers(Path::new("/proc")).into_iter().filter(|process| runs_kvm(*process)).collect(),
    };
    found.sort_unstable();
    found.into_iter().map(machine).collect()
}

/// A process as a virtual machine.
pub(super) fn machine(process: u32) -> Machine {
    let folder = Path::new("/proc").join(process.to_string());
    let line = fs::read(folder.join("cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let (vmm, name) = named(&words);
    let comm = || fs::read_to_string(folder.join("comm")).unwrap_or_default().trim().to_owned();
    let name = name.filter(|name| !name.is_empty()).unwrap_or_else(comm);
    Machine { process, name, vmm: vmm.unwrap_or_else(comm), first: 0 }
}

/// The number of the vCPU that a thread runs, if its name says so.
pub(super) fn vcpu_of(process: u32, thread: u32) -> Option<u16> {
    vcpu(fs::read_to_string(format!("/proc/{process}/task/{thread}/comm")).ok()?.trim_end_matches('\n'))
}

/// The process that a thread is of; `None` where there is no such thread.
pub(super) fn process_of(thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Whether a process or thread has not ended.
pub(super) fn lives(process: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
    // Behind the name, which may hold anything, comes the state.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X'))
}

/// Whether a process has a virtual machine of KVM's open. One whose files may not be looked at has none, for all we know.
fn runs_kvm(process: u32) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    files
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        .any(|file| file.as_os_str() == "anon_inode:kvm-vm" || file.as_os_str() == "anon_inode:[kvm-vm]")
}

/// The entries of a folder whose names are numbers.
fn numbers(folder: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// What runs a virtual machine and its name, by its command line.
fn named(words: &[String]) -> (Option<String>, Option<String>) {
    let program = words.first().map(|word| word.rsplit('/').next().unwrap_or(word)).unwrap_or_default();
    let vmm = match program {
        _ if program.starts_with("qemu") || program == "kvm" => "qemu",
        "firecracker" | "cloud-hypervisor" | "crosvm" => program,
        // A jailed Firecracker keeps its name; one that was renamed is known by its own words.
        _ if program.starts_with("firecracker") => "firecracker",
        _ => return (None, None),
    };
    let name = match vmm {
        "qemu" => option(words, &["-name", "--name"]).map(|name| {
            // `guest=a,debug-threads=on`, or the name alone; two commas stand for one.
            let first = split_at_comma(&name);
            first.strip_prefix("guest=").unwrap_or(&first).to_owned()
        }),
        "firecracker" => option(words, &["--id"]),
        "cloud-hypervisor" => option(words, &["--api-socket"]).map(|socket| {
            let path = split_at_comma(&socket);
            let path = path.strip_prefix("path=").unwrap_or(&path);
            let file = path.rsplit('/').next().unwrap_or(path);
            file.strip_suffix(".sock").or(file.strip_suffix(".socket")).unwrap_or(file).to_owned()
        }),
        _ => option(words, &["--name"]),
    };
    (Some(vmm.to_owned()), name)
}

/// What follows an option, in a word of its own or behind `=`.
fn option(words: &[String], names: &[&str]) -> Option<String> {
    words.iter().enumerate().find_map(|(at, word)| {
        let own = names.iter().any(|name| word == name).then(|| words.get(at + 1).cloned()).flatten();
        own.or_else(|| names.iter().find_map(|name| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned())))
    })
}

/// The part before the first comma that is no pair, with pairs as one.
fn split_at_comma(text: &str) -> String {
    let (mut part, mut rest) = (String::new(), text.chars().peekable());
    while let Some(next) = rest.next() {
        match next {
            ',' if rest.peek() == Some(&',') => {
                rest.next();
                part.push(',');
            }
            ',' => break,
            next => part.push(next),
        }
    }
    part
}

/// The number of the vCPU that a thread of that name runs.
fn vcpu(comm: &str) -> Option<u16> {
    let qemu = comm.strip_prefix("CPU ").and_then(|rest| rest.strip_suffix("/KVM"));
    let number =
        qemu.or(comm.strip_prefix("fc_vcpu ")).or(comm.strip_prefix("crosvm_vcpu")).or(comm.strip_prefix("vcpu"))?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_command_line() {
        let check = |line: &str, vmm: &str, name: Option<&str>| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            let got = named(&words);
            assert_eq!((got.0.as_deref(), got.1.as_deref()), ((!vmm.is_empty()).then_some(vmm), name), "{line}");
        };
        check("/usr/bin/qemu-system-x86_64 -name guest=debian12,debug-threads=on -m 1G", "qemu", Some("debian12"));
        check("qemu-system-x86_64 -m 1G -name web", "qemu", Some("web"));
        check("qemu-system-x86_64 -name a,,b,process=c", "qemu", Some("a,b"));
        check("/usr/libexec/qemu-kvm -name guest=x", "qemu", Some("x"));
        check("kvm -m 1G", "qemu", None);
        check("qemu-system-x86_64 -name", "qemu", None);
        check("/firecracker --id 7f3a --api-sock /run/a.sock", "firecracker", Some("7f3a"));
        check("firecracker-v1.7 --id=7f3a", "firecracker", Some("7f3a"));
        check("cloud-hypervisor --api-socket /run/ch/db.sock --cpus boot=2", "cloud-hypervisor", Some("db"));
        check("cloud-hypervisor --api-socket=path=/run/db.socket,x=y", "cloud-hypervisor", Some("db"));
        check("cloud-hypervisor --cpus boot=2", "cloud-hypervisor", None);
        check("crosvm run --name=termina --cpus 4", "crosvm", Some("termina"));
        check("crosvm run --name termina vmlinux", "crosvm", Some("termina"));
        check("/usr/bin/python3 -name x", "", None);
        check("", "", None);
    }

    #[test]
    fn vcpus_by_thread_name() {
        let check = |comm, want| assert_eq!(vcpu(comm), want, "{comm}");
        check("CPU 0/KVM", Some(0));
        check("CPU 13/KVM", Some(13));
        check("fc_vcpu 1", Some(1));
        check("vcpu0", Some(0));
        check("crosvm_vcpu2", Some(2));
        check("qemu-system-x86", None);
        check("CPU /KVM", None);
        check("vcpu99999", None);
        check("", None);
    }

    #[test]
    fn threads_have_processes() {
        let own = std::process::id();
        assert_eq!((process_of(own), lives(own)), (Some(own), true));
        assert_eq!((process_of(u32::MAX), lives(u32::MAX)), (None, false));
        assert_eq!(machine(own).process, own);
    }
}
