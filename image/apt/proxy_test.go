package apt

import (
	"net/http"
	"testing"
)

func TestProxy(t *testing.T) {
	for _, test := range []struct {
		name, conf, request, want string
	}{
		{"one", "Acquire::http::Proxy http://cache:3142", "http://host/", "http://cache:3142"},
		{"https has that of http", "Acquire::http::Proxy http://cache:3142", "https://host/", "http://cache:3142"},
		{"its own for https", "Acquire::http::Proxy http://cache:3142\nAcquire::https::Proxy http://other:1", "https://host/", "http://other:1"},
		{"direct", "Acquire::http::Proxy DIRECT", "http://host/", ""},
		{"direct host", "Acquire::HTTP::proxy http://cache:3142\nAcquire::http::Proxy::Host.Example DIRECT", "http://host.example:8080/", ""},
		{"another host", "Acquire::http::Proxy http://cache:3142\nAcquire::http::Proxy::host.example DIRECT", "http://host/", "http://cache:3142"},
	} {
		t.Run(test.name, func(t *testing.T) {
			program(t, "apt-config", "cat <<'END'\n"+test.conf+"\nEND\n")
			proxy, err := Proxy(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			request, err := http.NewRequest(http.MethodGet, test.request, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := proxy(request)
			if err != nil {
				t.Fatal(err)
			}
			text := ""
			if got != nil {
				text = got.String()
			}
			if text != test.want {
				t.Errorf("got %q, want %q", text, test.want)
			}
		})
	}
}

func TestProxyThatIsNoURL(t *testing.T) {
	program(t, "apt-config", "echo 'Acquire::http::Proxy http://me:secret@h:x:y'")
	proxy, err := Proxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodGet, "http://host/", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = proxy(request)
	if want := "Acquire::http::Proxy in apt.conf is no URL"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
