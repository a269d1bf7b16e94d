"""Native operations for the CPU: C++ built on first use for the machine it runs on."""
