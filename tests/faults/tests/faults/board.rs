//! The chipset.

use faults::campaign::campaign;
use supervisor::core::faults::Process;

#[test]
fn faults_of_the_board_end_as_the_table_says() {
    campaign(Process::Board);
}
