package fleet

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"text/template"
	"time"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/command"
)

//go:embed haproxy.cfg
var haproxyText string

var haproxyTemplate = template.Must(template.New("haproxy.cfg").Parse(haproxyText))

// waiting is how many connections may wait at the balancer: each is some 34 KiB of its memory.
const waiting = 2000

// HAProxy is the balancer's configuration: configuration.txt of HAProxy 2.6 and later.
func (f Fleet) HAProxy() ([]byte, error) {
	var text bytes.Buffer
	err := haproxyTemplate.Execute(&text, struct {
		Fleet
		Connections, QueueSeconds, Silence int
	}{f, f.Slots() + waiting, f.Balancer.Queue.Seconds(), int((time.Duration(f.Balancer.Lifetime) + 10*time.Minute).Seconds())})
	return text.Bytes(), err
}

// verifyHAProxy has HAProxy itself read the configuration in path.
func verifyHAProxy(ctx context.Context, path string) error {
	var said bytes.Buffer
	err := command.Run(ctx, command.Cmd{Args: []string{"haproxy", "-c", "-f", path}, Stderr: &said})
	var failed *command.Error
	if errors.As(err, &failed) {
		return fmt.Errorf("haproxy does not accept its configuration: %s", strings.TrimSpace(said.String()))
	}
	if warnings := strings.TrimSpace(said.String()); err == nil && warnings != "" {
		return fmt.Errorf("haproxy has doubts about its configuration: %s", warnings)
	}
	return err
}

// writeChecked writes a file that check accepts, by the name that it has until then.
func writeChecked(path string, text []byte, check func(path string) error) error {
	file, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return err
	}
	defer file.Cleanup()
	if _, err := file.Write(text); err != nil {
		return err
	}
	if err := check(file.Name()); err != nil {
		return err
	}
	return file.CloseAtomicallyReplace()
}
