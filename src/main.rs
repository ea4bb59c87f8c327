//! Arguments in, exit code out.

fn main() -> std::process::ExitCode {
    infer::cli::main(std::env::args_os())
}
