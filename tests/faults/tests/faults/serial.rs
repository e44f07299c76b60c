//! The first serial port.

use faults::campaign::campaign;
use supervisor::core::faults::Process;

#[test]
fn faults_of_the_serial_port_end_as_the_table_says() {
    campaign(Process::Serial0);
}
