// Package usbtest lets a driver's exchange with its device be a text: a test
// plays a script against the driver. Package record has the form of the script,
// and makes one of what happens on a real or virtual device.
package usbtest
