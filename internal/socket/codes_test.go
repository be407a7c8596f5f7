package socket

import "testing"

func TestCodeTexts(t *testing.T) {
	for _, tt := range []struct {
		name string
		code Code
		num  int
		text string
	}{
		{"success", Success, 0, "Success"},
		{"generic", Generic, -1, "Generic error"},
		{"timeout", Timeout, -2, "Command timed out"},
		{"invalid slot", InvalidSlot, -3, "Invalid slot"},
		{"not supported", NotSupported, -4, "Operation not supported"},
		{"comm error", CommError, -5, "Communication error"},
		{"no card", NoCard, -6, "No card present"},
		{"locked", Locked, -7, "Reader already locked"},
		{"no lock", NoLock, -8, "Reader not locked"},
		{"invalid arg", InvalidArg, -9, "Invalid argument"},
		{"no memory", NoMemory, -10, "Out of memory"},
		{"buffer too small", BufferTooSmall, -11, "Buffer too small"},
		{"user timeout", UserTimeout, -12, "Timeout on user input"},
		{"user abort", UserAbort, -13, "Operation aborted by user"},
		{"PIN mismatch", PINMismatch, -14, "PIN mismatch"},
		{"no ATR", NoATR, -15, "Unable to reset card"},
		{"incompatible device", IncompatibleDevice, -16, "Device cannot perform requested operation"},
		{"device disconnected", DeviceDisconnected, -17, "Device was disconnected"},
		{"invalid ATR", InvalidATR, -18, "Card returned invalid ATR"},
		{"invalid message", InvalidMsg, -100, "Invalid message"},
		{"invalid command", InvalidCmd, -101, "Invalid command"},
		{"missing argument", MissingArg, -102, "Missing argument"},
		{"not connected", NotConnected, -103, "Not connected to IFD handler"},
		{"already claimed", AlreadyClaimed, -200, "Device already claimed"},
		{"device busy", DeviceBusy, -201, "Device busy"},
		{"unknown device", UnknownDevice, -202, "Device not known"},
		{"positive means the same", 5, 5, "Communication error"},
		{"unknown", -19, -19, "Unknown OpenCT error 19"},
		{"unknown positive", 25, 25, "Unknown OpenCT error -25"},
		{"smallest", -32768, -32768, "Unknown OpenCT error 32768"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if int(tt.code) != tt.num || tt.code.Error() != tt.text {
				t.Errorf("%d %q, want %d %q", int(tt.code), tt.code.Error(), tt.num, tt.text)
			}
		})
	}
}
