//! The binary `cellway`.

/// It gives memory back once a crowd has gone; the C library's allocator keeps what many threads and small pieces have
/// scattered.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    cellway_cli::main()
}
