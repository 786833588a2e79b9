// A server with Go's own pprof endpoints, under a load with known shares: three quarters of the
// CPU time in alpha, one in beta. 64 blocks of 1 MiB are kept, 20 goroutines are parked, and two
// fight for a lock. It says `ready PORT`, and `/work` how
// often it went round.
package main

import (
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

var sink uint64

var done atomic.Uint64

//go:noinline
func burn(n uint64) uint64 {
	x := n
	for i := uint64(0); i < n; i++ {
		x = x*6364136223846793005 + 1442695040888963407
	}
	return x
}

//go:noinline
func alpha() uint64 { return burn(300000) + 1 }

//go:noinline
func beta() uint64 { return burn(100000) + 2 }

//go:noinline
func work() {
	for {
		sink += alpha() + beta()
		done.Add(1)
	}
}

//go:noinline
func keep() [][]byte {
	kept := make([][]byte, 64)
	for i := range kept {
		kept[i] = make([]byte, 1<<20)
	}
	return kept
}

//go:noinline
func park(never chan int) { <-never }

//go:noinline
func fight(lock *sync.Mutex) {
	for {
		lock.Lock()
		time.Sleep(2 * time.Millisecond)
		lock.Unlock()
	}
}

func main() {
	runtime.MemProfileRate = 1
	runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(1)
	time.AfterFunc(120*time.Second, func() { panic("nobody ended this") })
	kept := keep()
	runtime.GC()
	runtime.GC()
	never := make(chan int)
	for i := 0; i < 20; i++ {
		go park(never)
	}
	lock := new(sync.Mutex)
	go fight(lock)
	go fight(lock)
	go work()
	http.HandleFunc("/work", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, done.Load())
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	// Everything that was begun has come to where it stays.
	time.Sleep(200 * time.Millisecond)
	fmt.Println("ready", listener.Addr().(*net.TCPAddr).Port)
	err = http.Serve(listener, nil)
	runtime.KeepAlive(kept)
	panic(err)
}
