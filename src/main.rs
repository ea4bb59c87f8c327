//! Arguments in, exit code out.

fn main() -> std::process::ExitCode {
    quiet_driver();
    infer::cli::main(std::env::args_os())
}

/// Mesa's layer that puts the desktop's GPU first looks for a display, and where there is none
/// it complains on stderr, whose first line is ours. Here devices are chosen by name and kind.
fn quiet_driver() {
    let asked_for =
        ["MESA_VK_DEVICE_SELECT", "DRI_PRIME"].iter().any(|name| std::env::var_os(name).is_some());
    if cfg!(unix) && !asked_for {
        // SAFETY: no other thread has been started yet that could read the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
