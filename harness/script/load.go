package script

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func (s *script) transfer(ctx context.Context, c *call) error {
	var name, text string
	if err := c.parse(nil, &name, &text); err != nil {
		return err
	}
	size, err := bytesIn(text)
	if err != nil {
		return err
	}
	conn, err := s.alive(name)
	if err != nil {
		return err
	}
	back := &comparison{want: noise(size), digest: sha256.New()}
	began := time.Now()
	if err := conn.Run(ctx, "cat", noise(size), back, c.stderr); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", back.n, size, err)
	}
	if back.n != size {
		return fmt.Errorf("%d bytes came back, want %d", back.n, size)
	}
	fmt.Fprintf(c.stdout, "%d bytes each way, sha256 %x\n", size, back.digest.Sum(nil))
	c.ts.Logf("[%.1f MiB/s each way]", float64(size)/(1<<20)/time.Since(began).Seconds())
	return nil
}

// noise is the same size bytes every time; no part of them repeats another.
func noise(size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{}), size)
}

// comparison fails at the first byte that is not the wanted one.
type comparison struct {
	want   io.Reader
	n      int64 // bytes that were right
	digest hash.Hash
}

func (c *comparison) Write(p []byte) (int, error) {
	want := make([]byte, len(p))
	n, _ := io.ReadFull(c.want, want) // short at the end
	for i := range p {
		if i >= n {
			return i, fmt.Errorf("more than the %d bytes that were sent came back", c.n)
		}
		if p[i] != want[i] {
			return i, fmt.Errorf("byte %d came back as %#02x, want %#02x", c.n, p[i], want[i])
		}
		c.n++
	}
	return c.digest.Write(p)
}

// bytesIn reads a size such as 4096, 64K, 100M or 1G, in powers of 1024.
func bytesIn(text string) (int64, error) {
	number, shift := text, 0
	switch text[len(text)-1] {
	case 'K':
		shift = 10
	case 'M':
		shift = 20
	case 'G':
		shift = 30
	}
	if shift > 0 {
		number = text[:len(text)-1]
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n <= 0 {
		return 0, misuse(fmt.Sprintf("%q is not a size, such as 100M", text))
	}
	return n << shift, nil
}

const (
	burstWidth = 64              // connections that are open at once
	burstWait  = 5 * time.Second // for the server's first byte, to be scaled
)

// burst does not speak SSH: a client that only connects costs the server most.
func (s *script) burst(ctx context.Context, c *call) error {
	var text string
	if err := c.parse(nil, &text); err != nil {
		return err
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 1 {
		return misuse(fmt.Sprintf("%q is not a count, such as 300", text))
	}
	var mu sync.Mutex
	tally := make(map[string]int)
	jobs := make(chan struct{}, count)
	for range count {
		jobs <- struct{}{}
	}
	close(jobs)
	var workers sync.WaitGroup
	for range min(count, burstWidth) {
		workers.Go(func() {
			for range jobs {
				result, err := knock(ctx, s.env.Builder.Addr, s.scaled(burstWait))
				mu.Lock()
				if err != nil && tally[result] == 0 {
					fmt.Fprintf(c.stderr, "%s: %v\n", result, err) // the first of its kind says enough
				}
				tally[result]++
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	for _, result := range []string{"served", "closed", "silent", "failed"} {
		fmt.Fprintf(c.stdout, "%s %d\n", result, tally[result])
	}
	return context.Cause(ctx)
}

// knock connects, waits for the first byte, and leaves. The result is served if it came,
// closed if the server ended the connection instead, silent if nothing happened in time,
// and failed if there was no connection, or an error of another kind.
func knock(ctx context.Context, addr string, wait time.Duration) (result string, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "failed", err
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	conn.SetReadDeadline(end)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_, err = conn.Read(make([]byte, 1))
	var timeout net.Error
	switch {
	case err == nil:
		return "served", nil
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return "closed", nil
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		return "silent", nil
	}
	return "failed", err
}
