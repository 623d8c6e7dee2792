package fleet

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// view is what the balancer has to say of a host.
type view struct {
	state    string // UP, DRAIN, MAINT, DOWN: with why, if it is known
	sessions string // connections that it has there now
}

// showStat asks HAProxy on its own machine, by its socket: management.txt, 9.3.
const showStat = `perl -MIO::Socket::UNIX -e 'my $s = IO::Socket::UNIX->new(Peer => "/run/haproxy/admin.sock") or die "haproxy: $!\n"; print $s "show stat\n"; print while <$s>'`

// look asks the balancer for its statistics. The views are by the hosts' names; queued is how many
// connections wait for a slot.
func (f Fleet) look(ctx context.Context) (views map[string]view, queued string, err error) {
	if f.Balancer.SSH != "" {
		text, err := run(ctx, "the balancer", f.Balancer.SSH, showStat, nil)
		if err != nil {
			return nil, "", err
		}
		return readStats(bytes.NewReader(text), f.Name+"-hosts")
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+f.statsAddress().String()+"/;csv", nil)
	if err != nil {
		return nil, "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, "", fmt.Errorf("the balancer's statistics are not to be had: if it is another machine, say how to get onto it with balancer.ssh: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("the balancer answers %s: is it its address that balancer.stats has?", answer.Status)
	}
	return readStats(answer.Body, f.Name+"-hosts")
}

// statsAddress is that of the page, on the balancer itself if it is on all addresses.
func (f Fleet) statsAddress() netip.AddrPort {
	stats := f.Balancer.Stats
	if stats.Addr().IsUnspecified() {
		return netip.AddrPortFrom(f.Balancer.Listen.Addr(), stats.Port())
	}
	return stats
}

// readStats reads the rows of one backend: management.txt, 9.1.
func readStats(r io.Reader, backend string) (views map[string]view, queued string, err error) {
	rows, err := csv.NewReader(r).ReadAll()
	if err != nil {
		return nil, "", fmt.Errorf("the balancer's statistics can't be read: is it HAProxy that answers? %w", err)
	}
	if len(rows) == 0 {
		return nil, "", errors.New("the balancer says nothing: if it has just started, ask again")
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[strings.TrimPrefix(name, "# ")] = i
	}
	for _, name := range []string{"pxname", "svname", "qcur", "scur", "status", "check_status"} {
		if _, ok := column[name]; !ok {
			return nil, "", fmt.Errorf("the balancer's statistics have no %s: is it HAProxy that answers?", name)
		}
	}
	views = map[string]view{}
	for _, row := range rows[1:] {
		get := func(name string) string { return row[column[name]] }
		switch {
		case get("pxname") != backend:
		case get("svname") == "BACKEND":
			queued = get("qcur")
		default:
			v := view{get("status"), get("scur")}
			if strings.HasPrefix(v.state, "DOWN") {
				v.state += " (" + strings.TrimPrefix(get("check_status"), "* ") + ")"
			}
			views[get("svname")] = v
		}
	}
	return views, queued, nil
}
