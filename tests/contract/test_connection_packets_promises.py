"""What a connection promises, it promises over packets: tests of the one over a stream, run once more.

Left out are those that count calls of the kernel, those of a reset, which means something else here, and those that
send more without framing than a packet can be.
"""
# ruff: noqa: F401 - tests and fixtures are found by their names in the module

from __future__ import annotations

import pytest
from packetpeers import PacketWorld
from peers import kernel
from test_connection_close import (
    test_connection_close_drops_what_is_decoded_and_not_delivered,
    test_connection_close_flushes_ten_mebibytes_then_sends_the_end,
    test_connection_close_of_a_peer_that_takes_nothing_ends_after_flush_timeout,
    test_connection_close_twice_is_as_once,
    test_connection_close_waits_linger_seconds_for_the_peers_end,
    test_connection_close_with_unread_input_does_not_reset_the_peer,
    test_connection_close_without_linger_closes_at_once,
    test_connection_closed_leaves_no_timer_behind,
    test_connection_ended_in_a_callback_is_lost_once,
    test_connection_eof_received_true_keeps_sending_possible,
    test_connection_everything_is_allowed_on_a_closed_one,
    test_connection_half_closed_by_the_peer_does_not_spin,
    test_connection_idle_timeout_closes_in_order,
    test_connection_peers_half_close_gets_ten_mebibytes_first,
    test_connection_reset_while_flushing_is_told,
    test_connection_write_eof_flushes_first_and_keeps_receiving,
    test_connection_write_eof_in_a_callback_sends_the_answers_first,
    test_connection_write_eof_then_close_waits_for_the_peer_only,
)
from test_connection_delivery import (
    test_connection_answers_of_many_frames_arrive_in_order,
    test_connection_frames_of_one_mebibyte_are_echoed,
    test_connection_function_handler_gets_connection_and_frame,
    test_connection_hundred_thousand_tiny_frames_then_half_close_all_echoed_then_fin,
    test_connection_one_byte_at_a_time_delivers_the_same_frames,
    test_connection_send_at_max_frame_is_the_last_that_is_allowed,
    test_connection_without_framing_data_received_gets_all_bytes,
)
from test_connection_end import (
    test_connection_after_an_exit_in_a_callback_goes_on_when_the_reactor_runs_again,
    test_connection_bad_stream_is_closed_with_its_reason,
    test_connection_callback_that_raises_ends_this_connection_and_no_other,
    test_connection_fin_at_a_boundary_is_the_peers_orderly_end,
    test_connection_fin_inside_a_frame_is_truncated_at_every_offset,
    test_connection_good_frames_before_a_bad_one_are_delivered_and_answered,
    test_connection_of_a_protocol_that_lacks_a_callback_is_ended_as_the_handlers_fault,
)
from test_connection_flow import (
    test_connection_above_high_water_takes_nothing_more_from_the_kernel,
    test_connection_pause_and_resume_writing_come_in_pairs,
    test_connection_paused_and_throttled_waits_for_both,
    test_connection_paused_in_a_callback_holds_from_the_next_frame_on,
    test_connection_paused_in_connection_made_delivers_nothing_until_resumed,
    test_connection_paused_one_frame_at_a_time_delivers_all_in_order,
    test_connection_producer_that_fills_up_to_pause_and_goes_on_at_resume_delivers_all,
    test_connection_reset_by_a_throttled_peer_is_noticed,
    test_connection_throttled_and_half_closed_by_the_peer_still_answers_everything,
    test_connection_whose_peer_does_not_read_holds_high_water_and_one_answer,
)
from test_connection_fork import (
    test_fork_child_lives_on_and_the_peer_sees_the_parents_end,
    test_fork_child_uses_a_connection_and_the_parents_goes_on,
    test_fork_inside_a_callback_child_sends_nothing,
)
from test_connection_limits import (
    test_deadlines_end_with_the_connection,
    test_first_frame_timeout_after_the_peers_end_of_stream_is_off,
    test_first_frame_timeout_closes_a_silent_peer_at_the_limit,
    test_first_frame_timeout_does_not_run_while_reading_is_paused,
    test_first_frame_timeout_is_not_put_off_by_single_bytes,
    test_first_frame_timeout_is_over_with_the_first_frame,
    test_first_frame_timeout_without_framing_wants_any_byte,
    test_frame_timeout_begins_anew_when_the_connection_reads_again,
    test_frame_timeout_between_frames_does_not_run,
    test_frame_timeout_closes_at_the_limit_from_the_first_byte,
    test_frame_timeout_is_not_put_off_by_single_bytes,
    test_frame_timeout_is_per_frame,
    test_frame_timeout_of_a_stream_in_pieces_keeps_one_timer,
    test_max_output_in_the_middle_of_a_batch_delivers_no_more,
    test_nearest_of_several_deadlines_decides,
    test_output_deadlines_end_with_a_broken_stream,
    witness,
)
from test_connection_random import test_connection_random_life_keeps_every_promise
from test_connection_reentry import (
    test_connection_aborted_by_a_collection_in_its_end_ends_once,
    test_connection_aborted_by_a_collection_in_its_start_leaves_no_timer,
    test_connection_aborted_by_a_collection_while_frames_are_cut_delivers_nothing_more,
    test_connection_ended_by_a_collection_in_send_sends_the_whole_frame_or_nothing,
    test_connection_list_changed_by_a_collection_in_send_many_is_sent_as_it_was_or_is,
    test_connection_protocol_set_after_a_function_is_told_of_the_end,
    test_connection_read_from_inside_of_its_own_callback_delivers_each_frame_once,
    test_connection_reads_on_after_somebody_released_the_reactors_buffer,
    test_connection_that_is_refused_closes_no_descriptor,
    test_connection_that_was_never_initialised_is_refused_or_closed,
    test_connection_whose_fd_somebody_else_has_closed_ends,
    test_connection_without_a_receiver_ends_after_the_linger_whatever_the_idle_timeout,
)
from test_connection_turns import (
    test_connection_delivers_at_most_its_share_of_frames_a_turn,
    test_connection_pause_and_resume_for_each_frame_does_not_get_a_larger_share,
    test_connection_that_floods_lets_a_witness_be_served_every_turn,
)


@pytest.fixture
def world():
    """Every connection in it is over a SEQPACKET socket."""
    world = PacketWorld()
    yield world
    world.close()
