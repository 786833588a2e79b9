//! Entry points of the BPF programs; the work is in [`profiler_ebpf`] and the modules beside.
#![no_std]
#![no_main]

mod config;
mod kernel;
mod maps;
mod proof;
mod sample;
mod stack;
mod stacks;
mod sums;
mod switch;
mod tables;
mod targets;
mod visit;
mod wake;

use aya_ebpf::{
    macros::{btf_tracepoint, perf_event},
    programs::{BtfTracePointContext, PerfEventContext},
};

/// Runs at every tick of the sampling event on each CPU.
#[perf_event]
fn sample_cpu(ctx: PerfEventContext) -> u32 {
    sample::take(&ctx);
    0
}

/// Runs when a task is created: `(parent, child)`.
#[btf_tracepoint(function = "sched_process_fork")]
fn follow_fork(ctx: BtfTracePointContext) -> i32 {
    targets::follow_fork(&ctx);
    0
}

/// Runs at every switch of a CPU to another task.
#[btf_tracepoint(function = "sched_switch")]
fn switch_task(ctx: BtfTracePointContext) -> i32 {
    switch::take(&ctx);
    0
}

/// Runs at every waking of a task.
#[btf_tracepoint(function = "sched_waking")]
fn wake_task(ctx: BtfTracePointContext) -> i32 {
    wake::take(&ctx);
    0
}

/// Runs for each task of the host when user space asks for it. It may sleep.
#[unsafe(link_section = "iter.s/task")]
#[unsafe(no_mangle)]
extern "C" fn visit_task(ctx: *const visit::TaskContext) -> i32 {
    visit::visit(ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
