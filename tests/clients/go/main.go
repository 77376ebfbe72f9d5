// franz SCENARIO BOOTSTRAP TOPIC: franz-go against a broker; exits 0 when every fact holds.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const n = 500

var (
	ctx   context.Context
	seeds []string
	topic string
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func client(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seeds...)}, opts...)...)
	check(err)
	return cl
}

func produce(from int, opts ...kgo.Opt) {
	cl := client(opts...)
	defer cl.Close()
	for i := 0; i < n; i++ {
		r := &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte(fmt.Sprint(from + i))}
		cl.Produce(ctx, r, func(_ *kgo.Record, err error) { check(err) })
	}
	check(cl.Flush(ctx))
}

func expect(cl *kgo.Client, from, count int) {
	for got := 0; got < count; {
		fetches := cl.PollFetches(ctx)
		check(fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			if string(r.Value) != fmt.Sprint(from+got) {
				panic(fmt.Sprintf("offset %d: %s, not %d", r.Offset, r.Value, from+got))
			}
			got++
		})
	}
}

func admin() *kadm.Client { return kadm.NewClient(client()) }

func roundtrip() {
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(),
		kgo.Lz4Compression(), kgo.ZstdCompression()}
	a := admin()
	defer a.Close()
	_, err := a.CreateTopics(ctx, 1, 1, nil, topic)
	check(err)
	for i, codec := range codecs {
		produce(i*n, kgo.ProducerBatchCompression(codec))
	}
	produce(len(codecs)*n, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()))
	cl := client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	expect(cl, 0, (len(codecs)+1)*n)
}

func group() {
	a := admin()
	defer a.Close()
	_, err := a.CreateTopics(ctx, 1, 1, nil, topic)
	check(err)
	produce(0)
	opts := []kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic + "-g"), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
	cl := client(opts...)
	expect(cl, 0, n)
	check(cl.CommitUncommittedOffsets(ctx))
	cl.Close()
	produce(n)
	cl = client(opts...)
	expect(cl, n, n)
	check(cl.CommitUncommittedOffsets(ctx))
	cl.Close()
	lags, err := a.Lag(ctx, topic+"-g")
	check(err)
	if lag := lags[topic+"-g"].Lag.Total(); lag != 0 {
		panic(fmt.Sprint("lag ", lag))
	}
}

// A producer of a site with a ledger, as in site.py: NAME PARTITIONS PER_SECOND, until its input is closed.
func site() {
	name := os.Args[4]
	partitions, _ := strconv.Atoi(os.Args[5])
	rate, _ := strconv.Atoi(os.Args[6])
	cl := client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(5*time.Millisecond),
		kgo.DialTimeout(3*time.Second), kgo.ProduceRequestTimeout(5*time.Second),
		kgo.RequestTimeoutOverhead(5*time.Second), kgo.MetadataMaxAge(5*time.Second),
		kgo.RecordDeliveryTimeout(2*time.Minute))
	defer cl.Close()
	ended := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(ended) }()
	tick := time.NewTicker(time.Second / time.Duration(rate))
	for number := 0; ; number++ {
		select {
		case <-ended:
			check(cl.Flush(ctx))
			return
		case <-tick.C:
		}
		for partition := 0; partition < partitions; partition++ {
			said := number
			r := &kgo.Record{Topic: topic, Partition: int32(partition), Value: []byte(fmt.Sprintf("%s:%d", name, number))}
			cl.Produce(ctx, r, func(r *kgo.Record, err error) {
				if err != nil {
					fmt.Println("failed", r.Partition, said, err)
				} else {
					fmt.Println("acked", r.Partition, r.Offset, said)
				}
			})
		}
	}
}

func main() {
	var cancel func()
	limit := time.Minute
	if os.Args[1] == "site" {
		limit = 4 * time.Hour
	}
	ctx, cancel = context.WithTimeout(context.Background(), limit)
	defer cancel()
	seeds, topic = strings.Split(os.Args[2], ","), os.Args[3]
	map[string]func(){"roundtrip": roundtrip, "group": group, "site": site}[os.Args[1]]()
	fmt.Println(os.Args[1], "ok")
}
