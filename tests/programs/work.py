"""Known shares for CPython of any version from 3.6 on: `alpha` works three times as long as `beta`, and
a thread waits. With `brief` it ends after a second and a half."""
import sys
import threading
import time


def burn(rounds):
    total = 0
    for number in range(rounds):
        total += number * number
    return total


def alpha():
    return burn(3000)


def beta():
    return burn(1000)


def sleeper():
    time.sleep(1000)


def waiter():
    threading.Lock().acquire()
    threading.Event().wait()


def main():
    for name in (sleeper, waiter):
        threading.Thread(target=name, name=name.__name__, daemon=True).start()
    print("ready", flush=True)
    end = time.time() + 1.5
    while "brief" not in sys.argv or time.time() < end:
        alpha()
        beta()


main()
