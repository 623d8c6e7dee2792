package archive

import (
	"context"
	"io"
	"sync"
)

// relay passes what is written to it through sinks that each run in a goroutine of
// their own, one chunk behind another: reading, hashing and compressing a tar then keep
// several CPUs busy. Its memory is relayChunks times relaySize.
type relay struct {
	ctx    context.Context // done when a sink has failed
	stop   context.CancelCauseFunc
	chunk  []byte
	free   chan []byte // chunks that came out of the last sink
	in     chan []byte // of the first sink
	ending sync.WaitGroup
}

const (
	relayChunks = 6
	relaySize   = 1 << 20
)

func newRelay(ctx context.Context, sinks ...io.Writer) *relay {
	ctx, stop := context.WithCancelCause(ctx)
	r := &relay{ctx: ctx, stop: stop, free: make(chan []byte, relayChunks), in: make(chan []byte, relayChunks)}
	for range relayChunks {
		r.free <- make([]byte, 0, relaySize)
	}
	in := r.in
	for i, sink := range sinks {
		out := r.free
		if i < len(sinks)-1 {
			out = make(chan []byte, relayChunks)
		}
		r.ending.Add(1)
		go r.pass(sink, in, out)
		in = out
	}
	r.chunk = <-r.free
	return r
}

// pass gives sink all chunks that come in, until one fails.
func (r *relay) pass(sink io.Writer, in <-chan []byte, out chan<- []byte) {
	defer r.ending.Done()
	defer close(out)
	for chunk := range in {
		if r.ctx.Err() == nil {
			if _, err := sink.Write(chunk); err != nil {
				r.stop(err)
			}
		}
		out <- chunk // has room for all chunks there are
	}
}

func (r *relay) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if r.ctx.Err() != nil {
			return n, context.Cause(r.ctx)
		}
		fit := min(len(p), relaySize-len(r.chunk))
		r.chunk = append(r.chunk, p[:fit]...)
		p, n = p[fit:], n+fit
		if len(r.chunk) == relaySize {
			r.in <- r.chunk
			r.chunk = (<-r.free)[:0]
		}
	}
	return n, nil
}

// Close waits until every sink has had everything, and returns the error of the first
// that failed. It is called once, and always.
func (r *relay) Close() error {
	r.in <- r.chunk
	close(r.in)
	r.ending.Wait()
	cause := context.Cause(r.ctx)
	r.stop(nil)
	return cause
}
