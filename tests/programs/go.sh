# Go: its compiler builds a program with goroutines, timers, connections over loopback, signals, children and loops that only a signal
# interrupts; the program runs.
export GO111MODULE=off GOCACHE=$here/cache GOPATH=$here/path GOFLAGS=-p=2
cat > main.go <<'GO'
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func sums() {
	var wait sync.WaitGroup
	var lock sync.Mutex
	sum := 0
	for i := 0; i < 1000; i++ {
		wait.Add(1)
		go func(i int) {
			defer wait.Done()
			time.Sleep(time.Millisecond)
			lock.Lock()
			sum += i
			lock.Unlock()
		}(i)
	}
	wait.Wait()
	fmt.Println(sum)
}

func serves() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go func() {
		for {
			peer, err := listener.Accept()
			check(err)
			go io.Copy(peer, peer)
		}
	}()
	answers := make(chan string)
	for i := 0; i < 50; i++ {
		go func(i int) {
			peer, err := net.Dial("tcp", listener.Addr().String())
			check(err)
			fmt.Fprintln(peer, "number", i)
			line, err := bufio.NewReader(peer).ReadString('\n')
			check(err)
			peer.Close()
			answers <- line
		}(i)
	}
	length := 0
	for i := 0; i < 50; i++ {
		length += len(<-answers)
	}
	fmt.Println(length)
}

func interrupts() {
	done := make(chan bool)
	go func() {
		for {
		}
	}()
	go func() {
		for i := 0; i < 100; i++ {
			time.Sleep(time.Millisecond)
		}
		done <- true
	}()
	<-done
	defer func() { fmt.Println(recover()) }()
	var nowhere *int
	*nowhere = 1
}

func main() {
	sums()
	serves()
	output, err := exec.Command("sh", "-c", "echo a child; exit 3").Output()
	fmt.Print(string(output), err, "\n")
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	check(syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	fmt.Println(<-signals)
	interrupts()
	os.Exit(5)
}
GO
go build -o main main.go && ./main
echo $?
