use flame_graph::source::{
    Source,
    native::{
        Scope,
        ebpf::{load::Settings, source::EbpfSource},
    },
    session::Session,
};
fn main() -> anyhow::Result<()> {
    let start = std::time::Instant::now();
    let pid: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let scope =
        if pid == 0 { Scope::Host } else { Scope::Processes { pids: vec![pid], children: true } };
    let session = Session::new(start)?;
    let s2 = session.clone();
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(3));
        s2.stop();
    });
    let hz = std::env::args().nth(2).map_or(99, |a| a.parse().unwrap());
    let source = EbpfSource {
        settings: Settings {
            scope,
            frequency: hz,
            user: true,
            kernel: true,
            measure: true,
            ring_bytes: 1 << 22,
        },
        threads: false,
        title: "t".into(),
        target: "x".into(),
        ready: Box::new(|| eprintln!("ready")),
    };
    let (rec, report) = source.record(&session).map_err(|e| {
        eprintln!("{e:#}");
        e
    })?;
    println!(
        "{report:#?}\n{:?} samples {} complete {} stacks {}",
        rec.losses,
        rec.samples,
        rec.complete,
        rec.stacks.len()
    );
    for (id, v) in rec.stacks.iter().take(3) {
        println!("{} {:?}", v[0], rec.stacks.root_first(id));
    }
    Ok(())
}
