package fetch

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"
)

// Read returns the content of a small file, at most limit bytes, of which nothing is known
// beforehand. It tries once. A file that does not exist is [io/fs.ErrNotExist].
func Read(ctx context.Context, address string, limit int64, o Options) ([]byte, error) {
	c := newClient(o)
	defer c.http.CloseIdleConnections()
	// The whole of it may take as long as a download may stall.
	ctx, cancel := context.WithTimeoutCause(ctx, cmp.Or(o.stall, 30*time.Second), errStalled)
	defer cancel()
	response, err := c.request(ctx, address, nil)
	if err == nil {
		defer response.Body.Close()
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(response.Body, limit+1)); err == nil && int64(len(text)) <= limit {
			return text, nil
		} else if err == nil {
			err = fmt.Errorf("it has more than %d bytes", limit)
		}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("%s: %w", name(address), err)
}
