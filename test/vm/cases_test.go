//go:build vm

package vm

import (
	"fmt"
	"testing"
	"time"
)

// cases in the order in which they run. Each stands for itself: it can be run
// alone with -run.
var cases = []struct {
	name string
	run  func(*testing.T, *guest)
}{
	{"system", testSystem},
	{"from source", testFromSource},
	{"install", testInstall},
	{"plug", testPlug},
	{"present at boot", testPresentAtBoot},
	{"unplug during an APDU", testUnplugDuringAPDU},
	{"unplug during a hung transfer", testUnplugWhileHung},
	{"replug at once", testReplug},
	{"USB reset", testReset},
	{"restart of openct.service", testRestart},
	{"stop", testStop},
	{"kill", testKill},
	{"sixteen tokens", testMany},
	{"suspend", testSuspend},
	{"hardening", testHardening},
	{"idle", testIdle},
	{"cost", testCost},
	{"classic set-ups", testClassic},
	{"doctor", testDoctor},
	{"plugged again and again", testCycles},
	{"tokens", testTokens},
	{"pcsc", testPCSC},
	{"names", testNames},
	{"ccid", testCCID},
	{"serial", testSerial},
	{"reader units", testReaderUnits},
	{"memory cards", testMemoryCards},
	{"serial readers", testSerialReaders},
	{"terminal server", testTerminalServer},
	{"USB/IP", testUSBIP},
	{"remote", testRemote},
	{"verify", testVerify},
	{"upgrade", testUpgrade},
	{"old configuration", testOldConfiguration},
	{"purge", testPurge},
	{"install while events come", testInstallAmongEvents},
	{"no systemd", testNoSystemd}, // the last one, it leaves the machine without
}

func TestE2E(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if err := vm.alive(); err != nil {
				t.Fatal(err)
			}
			vm.keepJournal(t)
			begin := time.Now()
			t.Cleanup(func() { fmt.Printf("e2e: %s: %.0f s\n", c.name, time.Since(begin).Seconds()) })
			c.run(t, vm)
		})
	}
}
