//! Who writes and reads snapshots.

use faults::campaign::campaign;
use supervisor::core::faults::Process;

#[test]
fn faults_of_a_streamer_that_writes_end_as_the_table_says() {
    campaign(Process::StreamerSource);
}

#[test]
fn faults_of_a_streamer_that_reads_end_as_the_table_says() {
    campaign(Process::StreamerTarget);
}
