//! The binary `cellway`.

fn main() -> std::process::ExitCode {
    cellway_cli::main()
}
