//! The offsets of kernel fields that the BPF programs need, from this kernel's BTF.

use aya::EbpfLoader;

use super::{
    btf::{Btf, BtfError},
    load::LoadError,
};

/// The programs' globals with their values.
pub struct Offsets {
    globals: Vec<(&'static str, u32)>,
    execve_mask: u8,
}

impl Offsets {
    /// Looks them up; `cgroups`: also those by which a task's cgroup is found; `times`: those by which
    /// its time is told.
    ///
    /// # Errors
    ///
    /// [`LoadError::NoBtf`], or [`LoadError::Btf`] for a field that this kernel does not have.
    pub fn of_this_kernel(cgroups: bool, times: bool) -> Result<Self, LoadError> {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").map_err(LoadError::NoBtf)?;
        let btf = Btf::parse(&bytes)?;
        let [flags, mm] = offsets(&btf, "task_struct", ["flags", "mm"])?;
        let [pid, tgid] = offsets(&btf, "task_struct", ["pid", "tgid"])?;
        let [comm, leader] = offsets(&btf, "task_struct", ["comm", "group_leader"])?;
        // Without the bit, a stack sampled within execve(2) is walked and ends as unreadable.
        let execve = btf.fields("task_struct", ["in_execve"]).ok().map(|[field]| field);
        let mut globals = vec![
            ("TASK_FLAGS", flags),
            ("TASK_MM", mm),
            ("TASK_PID", pid),
            ("TASK_TGID", tgid),
            ("TASK_COMM", comm),
            ("TASK_LEADER", leader),
            ("TASK_EXECVE", execve.map_or(flags, |field| field.byte_offset())),
        ];
        if cgroups {
            let [set] = offsets(&btf, "task_struct", ["cgroups"])?;
            let [group] = offsets(&btf, "css_set", ["dfl_cgrp"])?;
            let [own, node] = offsets(&btf, "cgroup", ["self", "kn"])?;
            let [parent, back] = offsets(&btf, "cgroup_subsys_state", ["parent", "cgroup"])?;
            let [id] = offsets(&btf, "kernfs_node", ["id"])?;
            globals.extend([
                ("TASK_CGROUPS", set),
                ("CSS_SET_CGROUP", group),
                ("CGROUP_NODE", node),
                ("CGROUP_PARENT", own + parent),
                ("CSS_CGROUP", back),
                ("NODE_ID", id),
            ]);
        }
        if times {
            let [state, on_cpu] = offsets(&btf, "task_struct", ["__state", "on_cpu"])?;
            let [exit, start] = offsets(&btf, "task_struct", ["exit_state", "start_time"])?;
            let [exec, info] = offsets(&btf, "task_struct", ["self_exec_id", "sched_info"])?;
            let [delay] = offsets(&btf, "sched_info", ["run_delay"])?;
            globals.extend([
                ("TASK_STATE", state),
                ("TASK_ON_CPU", on_cpu),
                ("TASK_EXIT_STATE", exit),
                ("TASK_START", start),
                ("TASK_EXEC_ID", exec),
                ("TASK_RUN_DELAY", info + delay),
            ]);
        }
        let execve_mask = execve.map_or(0, |field| 1 << (field.bit_offset % 8));
        Ok(Self { globals, execve_mask })
    }

    /// Sets the programs' globals.
    pub fn hand_over<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for (name, value) in &self.globals {
            loader.override_global(name, value, true);
        }
        loader.override_global("TASK_EXECVE_MASK", &self.execve_mask, true);
    }
}

fn offsets<const N: usize>(
    btf: &Btf<'_>,
    structure: &str,
    names: [&str; N],
) -> Result<[u32; N], BtfError> {
    Ok(btf.fields(structure, names)?.map(|field| field.byte_offset()))
}
