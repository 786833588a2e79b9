// Goroutines with a known call structure: main.main and a goroutine, half of the time each.
package main

import (
	"fmt"
	"time"
)

var sink uint64

//go:noinline
func burn(n uint64) uint64 {
	x := n
	for i := uint64(0); i < n; i++ {
		x = x*6364136223846793005 + 1442695040888963407
	}
	return x
}

//go:noinline
func inner(n uint64) uint64 { return burn(n) + 1 }

//go:noinline
func outer(n uint64) uint64 { return inner(n) + 2 }

type worker struct{ n uint64 }

//go:noinline
func (w *worker) work() uint64 { return burn(w.n) + 3 }

//go:noinline
func background() {
	w := &worker{100000}
	var sum uint64
	for {
		sum += w.work()
		if sum == 1 {
			sink = sum
		}
	}
}

func main() {
	time.AfterFunc(120*time.Second, func() { panic("nobody ended this") })
	go background()
	fmt.Println("ready")
	for {
		sink += outer(100000)
	}
}
