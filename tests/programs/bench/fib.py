"""fib.py PAGE [native]: Fibonacci numbers by recursion; `native` recurses through the interpreter's
C code (map and sum), which makes deep native stacks. Counts units and CPU time as work.h says."""

import mmap
import struct
import sys
import time


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def native_fib(n):
    return n if n < 2 else sum(map(native_fib, (n - 1, n - 2)))


def main():
    with open(sys.argv[1], "r+b") as file:
        page = mmap.mmap(file.fileno(), 192)
    function, n = (native_fib, 10) if "native" in sys.argv[2:] else (fib, 12)
    units = 0
    while True:
        function(n)
        units += 1
        struct.pack_into("=QQ", page, 0, units, time.thread_time_ns())


main()
