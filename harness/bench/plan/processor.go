package plan

import (
	"fmt"
	"os"
	"time"
)

// processor is the time that all cores of this machine have spent so far, at work and idle: to
// 10 ms, see proc_stat(5).
func processor() (busy, idle Duration, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	var user, nice, system, idling, waiting, interrupts, soft, stolen int64
	if _, err := fmt.Sscanf(string(text), "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idling, &waiting, &interrupts, &soft, &stolen); err != nil {
		return 0, 0, fmt.Errorf("reading /proc/stat: %w", err)
	}
	const tick = 10 * time.Millisecond
	return tick * Duration(user+nice+system+interrupts+soft+stolen), tick * Duration(idling+waiting), nil
}
