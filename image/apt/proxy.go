package apt

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strings"

	"ephemeral-builder/image/command"
)

// Proxy returns what apt goes by, for [http.Transport]: Acquire::http::Proxy and
// Acquire::https::Proxy of its configuration, also for single hosts and with DIRECT
// (apt-transport-http(1)), or else the environment. Without apt it is the environment.
func Proxy(ctx context.Context) (func(*http.Request) (*url.URL, error), error) {
	if _, err := exec.LookPath("apt-config"); err != nil {
		return http.ProxyFromEnvironment, nil
	}
	dump, err := command.Output(ctx, command.Cmd{Args: []string{"apt-config", "dump", "--no-empty", "--format", "%f %v%n", "Acquire"}})
	if err != nil {
		return nil, err
	}
	set := map[string]string{} // by the name in lower case, as apt sees it
	for line := range strings.Lines(string(dump)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		set[strings.ToLower(name)] = value
	}
	return func(r *http.Request) (*url.URL, error) {
		for _, option := range []string{"::proxy::" + strings.ToLower(r.URL.Hostname()), "::proxy"} {
			for _, scheme := range []string{r.URL.Scheme, "http"} { // https has the options of http
				switch value := set["acquire::"+scheme+option]; value {
				case "":
				case "DIRECT":
					return nil, nil
				default:
					proxy, err := url.Parse(value)
					if err != nil {
						return nil, fmt.Errorf("Acquire::%s::Proxy in apt.conf is no URL", scheme) // the value may hold a password
					}
					return proxy, nil
				}
			}
		}
		return http.ProxyFromEnvironment(r)
	}, nil
}
