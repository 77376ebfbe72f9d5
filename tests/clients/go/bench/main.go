// bench MODE BOOTSTRAP TOPIC ...: load with franz-go, which is no bottleneck. Prints one JSON object.
//
//	bench produce BOOTSTRAP TOPIC RECORDS SIZE   idempotent, acks=all, as fast as it goes
//	bench keyed BOOTSTRAP TOPIC RECORDS SIZE KEYS  the same, each with one of so many keys
//	bench consume BOOTSTRAP TOPIC RECORDS        from the beginning, as fast as it goes
//	bench e2e BOOTSTRAP TOPIC RECORDS SIZE RATE  from the moment a record is due until it is read
//	bench gap BOOTSTRAP TOPIC SECONDS RATE       the longest time between two acknowledgements
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var ctx = context.Background()

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func number(i int) int {
	n, err := strconv.Atoi(os.Args[i])
	check(err)
	return n
}

func client(opts ...kgo.Opt) *kgo.Client {
	// A gateway takes requests of 16 MiB, as its socket.request.max.bytes says, and not of Kafka's 100.
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(strings.Split(os.Args[2], ",")...),
		kgo.BrokerMaxWriteBytes(16 << 20),
		kgo.ProducerBatchCompression(kgo.NoCompression())}, opts...)...)
	check(err)
	return cl
}

func report(v map[string]any) { check(json.NewEncoder(os.Stdout).Encode(v)) }

func quantiles(ms []float64, into map[string]any) {
	sort.Float64s(ms)
	into["p50_ms"], into["p99_ms"], into["max_ms"] = ms[len(ms)/2], ms[len(ms)*99/100], ms[len(ms)-1]
}

func produce() { load(func(int) []byte { return nil }) }

func keyed() {
	keys := rand.New(rand.NewSource(1))
	load(func(int) []byte { return []byte(fmt.Sprintf("key-%08d", keys.Intn(number(6)))) })
}

func load(key func(int) []byte) {
	n, size := number(4), number(5)
	cl := client(kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(100_000),
		kgo.RecordPartitioner(kgo.StickyPartitioner()))
	value := make([]byte, size)
	rand.Read(value)
	latency := make([]float64, n)
	var wg sync.WaitGroup
	wg.Add(n)
	start := time.Now()
	for i := 0; i < n; i++ {
		at := time.Now()
		cl.Produce(ctx, &kgo.Record{Topic: os.Args[3], Key: key(i), Value: value}, func(_ *kgo.Record, err error) {
			check(err)
			latency[i] = float64(time.Since(at).Microseconds()) / 1000
			wg.Done()
		})
	}
	wg.Wait()
	out := map[string]any{"per_s": float64(n) / time.Since(start).Seconds()}
	quantiles(latency, out)
	cl.Close()
	report(out)
}

func consume() {
	n, got := number(4), 0
	cl := client(kgo.ConsumeTopics(os.Args[3]), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	start := time.Now()
	for got < n {
		fetches := cl.PollFetches(ctx)
		check(fetches.Err())
		got += fetches.NumRecords()
	}
	report(map[string]any{"per_s": float64(got) / time.Since(start).Seconds()})
}

func e2e() {
	n, size, rate := number(4), number(5), number(6)
	reader := client(kgo.ConsumeTopics(os.Args[3]), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.FetchMaxWait(500*time.Millisecond))
	writer := client(kgo.ProducerLinger(0))
	check(writer.ProduceSync(ctx, &kgo.Record{Topic: os.Args[3], Value: make([]byte, size)}).FirstErr())
	latency := make([]float64, 0, n)
	done := make(chan struct{})
	go func() {
		for len(latency) < n {
			fetches := reader.PollFetches(ctx)
			check(fetches.Err())
			now := time.Now().UnixNano()
			fetches.EachRecord(func(r *kgo.Record) {
				if due := int64(binary.BigEndian.Uint64(r.Value)); due > 0 && len(latency) < n {
					latency = append(latency, float64(now-due)/1e6)
				}
			})
		}
		close(done)
	}()
	time.Sleep(2 * time.Second)
	start := time.Now()
	for i := 0; i < n; i++ {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		value := make([]byte, size)
		binary.BigEndian.PutUint64(value, uint64(due.UnixNano()))
		writer.Produce(ctx, &kgo.Record{Topic: os.Args[3], Value: value}, func(_ *kgo.Record, err error) { check(err) })
	}
	<-done
	out := map[string]any{"per_s": float64(n) / time.Since(start).Seconds()}
	quantiles(latency, out)
	report(out)
}

// What a producer sees while a leader fails: records go out at a steady rate, and all are acknowledged in the end.
func gap() {
	seconds, rate := number(4), number(5)
	cl := client(kgo.ProducerLinger(0), kgo.RecordDeliveryTimeout(60*time.Second))
	var lock sync.Mutex
	var last time.Time
	longest, acked := time.Duration(0), 0
	var wg sync.WaitGroup
	start := time.Now()
	for i := 0; i < seconds*rate; i++ {
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		wg.Add(1)
		cl.Produce(ctx, &kgo.Record{Topic: os.Args[3], Value: []byte(strconv.Itoa(i))}, func(_ *kgo.Record, err error) {
			check(err)
			now := time.Now()
			lock.Lock()
			if acked > 0 && now.Sub(last) > longest {
				longest = now.Sub(last)
			}
			last, acked = now, acked+1
			lock.Unlock()
			wg.Done()
		})
	}
	wg.Wait()
	report(map[string]any{"gap_ms": float64(longest.Microseconds()) / 1000, "acked": acked})
}

func main() {
	map[string]func(){"produce": produce, "keyed": keyed, "consume": consume, "e2e": e2e, "gap": gap}[os.Args[1]]()
}
